"""The forms in which a model leaves this project: what each is called, holds and refuses, and how it is written."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from nanogpt.config import ModelConfig
from nanogpt.export import card as cards
from nanogpt.export import folder_card, gguf_file, gguf_folder, huggingface, mlx_folder, onnx_folder, target
from nanogpt.export.titles import OPENED_BY
from nanogpt.faults import UserError, nearest
from nanogpt.model.gpt import GPT
from nanogpt.tokenizers.tokenizer import Tokenizer
from nanogpt.weights import hugging_face, published_settings
from nanogpt.weights.folders import open_folder, source_at

ALL = "all"


@dataclass(frozen=True)
class Writing:
    """One export: what is written where. `card` is the text of its README.md; None leaves what is there."""

    model: GPT
    tokenizer: Tokenizer
    folder: Path
    precision: str
    card: str | None
    sources: Collection[Path]
    name: str


@dataclass(frozen=True)
class Format:
    """`precisions`: how weights can be stored, the usual way first. `files`: all that such a folder may hold.

    `refusal(config, tokenizer)`: why it cannot hold a model, or nothing; it may raise UserError instead.
    `use(config, tokenizer, precision, prompt)`: how to use it, for the card; None where a model's own card says it.
    """

    name: str
    library: str
    precisions: tuple[str, ...]
    weights: str
    files: frozenset[str]
    is_export: Callable[[Path], bool]
    refusal: Callable[[ModelConfig, Tokenizer], str]
    write: Callable[[Writing], list[Path]]
    use: Callable[[ModelConfig, Tokenizer, str, str], str] | None = None

    @property
    def title(self) -> str:
        return OPENED_BY[self.name]


def _published_refusal(config: ModelConfig, tokenizer: Tokenizer) -> str:
    published_settings.settings_of(config)
    return ""


def _write_hugging_face(to: Writing) -> list[Path]:
    return huggingface.export(to.model, to.tokenizer, to.folder, to.card, to.sources, to.precision)


def _write_onnx(to: Writing) -> list[Path]:
    return onnx_folder.export(to.model, to.tokenizer, to.folder, to.precision, to.card, to.sources)


def _write_gguf(to: Writing) -> list[Path]:
    return gguf_folder.export(to.model, to.tokenizer, to.folder, to.precision, to.card, to.sources, to.name)


FORMATS = {
    found.name: found
    for found in (
        Format(
            name="hf",
            library="transformers",
            precisions=tuple(huggingface.PRECISIONS),
            weights=hugging_face.WEIGHTS,
            files=frozenset(huggingface.FILES),
            is_export=huggingface.is_export,
            refusal=_published_refusal,
            write=_write_hugging_face,
        ),
        Format(
            name="gguf",
            library=gguf_folder.LIBRARY,
            precisions=tuple(gguf_file.PRECISIONS),
            weights=gguf_folder.WEIGHTS,
            files=frozenset(gguf_folder.FILES),
            is_export=gguf_folder.is_export,
            refusal=gguf_folder.refusal,
            write=_write_gguf,
            use=gguf_folder.use,
        ),
        Format(
            name="onnx",
            library=onnx_folder.LIBRARY,
            precisions=tuple(onnx_folder.PRECISIONS),
            weights=onnx_folder.WEIGHTS,
            files=frozenset(onnx_folder.FILES),
            is_export=huggingface.is_export,
            refusal=onnx_folder.refusal,
            write=_write_onnx,
            use=onnx_folder.use,
        ),
        Format(
            name="mlx",
            library=mlx_folder.LIBRARY,
            precisions=tuple(huggingface.PRECISIONS),
            weights=hugging_face.WEIGHTS,
            files=frozenset(huggingface.FILES),
            is_export=huggingface.is_export,
            refusal=mlx_folder.refusal,
            write=_write_hugging_face,
            use=mlx_folder.use,
        ),
    )
}


def write(
    source: Path | str,
    fmt: str,
    folder: Path | str,
    card: str | None = None,
    precision: str | None = None,
    own: bool = False,
) -> list[Path]:
    """Write the model at `source` to `folder` in one format; returns the files.

    `card`: the model's card as transformers' users read it, from which this format's is made; None leaves a README.md
    as it is. `precision`: None is the format's usual one. `own`: the place belongs to the caller, so what is there and
    is no export is set aside. Raises UserError, CorruptFileError for damaged weights, OSError.
    """
    source, folder, form = Path(source), Path(folder), format_named(fmt)
    model, tokenizer = open_folder(source)
    require_fitting([form], model.config, tokenizer)
    if own:
        target.make_way(folder, form.files, form.is_export, [source])
    return write_model(model, tokenizer, form, folder, card, precision, [source], folder_card.name_at(source))


def write_model(
    model: GPT,
    tokenizer: Tokenizer,
    form: Format,
    folder: Path,
    card: str | None = None,
    precision: str | None = None,
    sources: Collection[Path] = (),
    name: str = "model",
) -> list[Path]:
    """write() of a model that is in memory and fits; `sources` are the folders that it was read from."""
    precision = precision or form.precisions[0]
    if precision not in form.precisions:
        raise UserError(f"precision {precision}: {form.name} has {', '.join(form.precisions)}")
    if card is not None and form.use is not None:
        how = form.use(model.config, tokenizer, precision, folder_card.opening(tokenizer, words=True))
        card = cards.in_another_form(card, form.library, how)
    return form.write(Writing(model, tokenizer, folder, precision, card, sources, name))


def format_named(name: str) -> Format:
    """Raises UserError for a format that is not in the table."""
    if name not in FORMATS:
        raise UserError(f"format {name!r}: allowed are {', '.join(FORMATS)}{nearest(name, FORMATS)}")
    return FORMATS[name]


def chosen(asked: str) -> list[Format]:
    """The formats in a list such as "hf,gguf", in the order of the table; "all" is every one. Raises UserError."""
    names = [name.strip() for name in asked.split(",")]
    if names == [ALL]:
        return list(FORMATS.values())
    wanted = {format_named(name).name for name in names}
    return [form for name, form in FORMATS.items() if name in wanted]


def precisions(asked: str | None, forms: Sequence[Format]) -> dict[str, str]:
    """The precision of each format: the one of a list such as "f16,q8_0" that it has, else its usual one.

    Raises UserError for a precision that none of `forms` has, and for two of one format.
    """
    names = [name.strip() for name in asked.split(",")] if asked else []
    every = list(dict.fromkeys(name for form in forms for name in form.precisions))
    for name in names:
        if name not in every:
            raise UserError(f"--precision {name}: allowed here are {', '.join(every)}{nearest(name, every)}")
    found = {}
    for form in forms:
        fitting = [name for name in form.precisions if name in names]
        if len(fitting) > 1:
            raise UserError(f"--precision {asked}: {' and '.join(fitting)} are both for {form.name}; name one")
        found[form.name] = fitting[0] if fitting else form.precisions[0]
    return found


def refusals(forms: Sequence[Format], config: ModelConfig, tokenizer: Tokenizer) -> dict[str, str]:
    """Why formats cannot hold a model, by their names."""
    found = {}
    for form in forms:
        try:
            reason = form.refusal(config, tokenizer)
        except UserError as error:
            reason = str(error)
        if reason:
            found[form.name] = reason
    return found


def require_fitting(forms: Sequence[Format], config: ModelConfig, tokenizer: Tokenizer) -> None:
    """Raise UserError naming the option that one of `forms` cannot hold, and the formats that can."""
    for name, reason in refusals(forms, config, tokenizer).items():
        others = refusals(list(FORMATS.values()), config, tokenizer)
        able = ", ".join(other for other in FORMATS if other not in others)
        raise UserError(f"{name} cannot hold this model: {reason}; formats that can: {able or 'none'}")


def folders_for(forms: Sequence[Format], out: Path, many: bool, sources: Collection[Path]) -> dict[str, Path]:
    """Where each format is written: to `out` itself, or one of `many` to a folder in it. Raises UserError before
    anything is written where one may not be."""
    if many and any(form.is_export(out) for form in FORMATS.values()):
        raise UserError(f"--out {out}: is an export; choose another folder for several formats")
    found = {form.name: out / form.name if many else out for form in forms}
    for form in forms:
        target.require_target(found[form.name], form.files, form.is_export, sources)
    return found


def card_for(source: Path, folder: Path) -> str | None:
    """The card of the model at `source` for an export to `folder`; None where that has a person's own README.md."""
    return folder_card.text_for(source_at(source), folder)
