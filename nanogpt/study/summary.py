"""What is to be seen in a trained model, for the report of a run: all studies that take seconds, on held-out text."""

from __future__ import annotations

from pathlib import Path

from nanogpt.data.shards import open_split
from nanogpt.plots import study as plots
from nanogpt.results.study import ModelStudy
from nanogpt.study.attention import study_attention
from nanogpt.study.embeddings import study_embeddings
from nanogpt.study.lens import study_lens, study_surprise
from nanogpt.study.subject import open_subject

MOST_TOKENS = 100_000  # of the test split, whose most frequent ones are on the map


def study_trained(model_folder: Path, data_folder: Path, figures: Path) -> ModelStudy:
    """Attention, lens and embeddings of the best weights in a training folder, on the test split of `data_folder`; the
    figures are SVG files in the folder `figures`, {name of the model}-{what}.svg.

    Raises UserError, CorruptFileError, NonFiniteError.
    """
    subject = open_subject(str(model_folder))
    text = subject.tokenizer.decode(open_split(data_folder, "test").tokens[:MOST_TOKENS].tolist())
    attention, _ = study_attention(subject, text)
    lens, surprise = study_lens(subject, text), study_surprise(subject, text)
    embeddings = study_embeddings(subject, text)

    def file(what: str) -> Path:
        return figures / f"{model_folder.name}-{what}.svg"

    drawn = [
        plots.attention_entropy_plot(model_folder, file("attention-entropy")),
        plots.heads_plot(attention, file("attention-heads")),
        plots.lens_layers_plot(lens, file("lens")),
        plots.embeddings_plot(embeddings, file("embeddings")),
    ]
    findings = [*attention.findings, *lens.findings, *surprise.findings, *embeddings.findings]
    return ModelStudy(findings, [path.stem for path in drawn])
