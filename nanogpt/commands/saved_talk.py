"""Files of talks: what /save writes, and what /load takes besides: a conversation that was saved on the page."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field, ValidationError

from nanogpt import durable
from nanogpt.faults import UserError
from nanogpt.inference.conversation import Role
from nanogpt.mistakes import explain


class SavedMessage(BaseModel):
    role: Role
    content: str


class SavedTalk(BaseModel):
    """What /save writes; any file that has `messages`, in the form of OpenAI's interface, is one."""

    messages: list[SavedMessage]
    you: str | None = None
    bot: str | None = None
    model: str | None = None


class PageMessage(BaseModel):
    """`parent`: the place of the message that it follows, None at the beginning. `pick`: the one of those that follow
    which is shown, as in PageTree."""

    parent: int | None
    role: Literal["user", "assistant"]
    text: str
    pick: int


class PageTree(BaseModel):
    pick: int
    nodes: list[PageMessage]


class PagePane(BaseModel):
    chat: PageTree


class PageNames(BaseModel):
    user: str
    assistant: str


class PageTalk(BaseModel):
    """What the page writes (serving/page/conversation.js), as far as a talk on a terminal has a place for it."""

    format: Literal["nanogpt conversation"]
    version: Literal[1]
    names: PageNames
    system: str
    panes: list[PagePane] = Field(min_length=1)

    def as_talk(self) -> SavedTalk:
        """The messages that the first model's pane shows. Raises UserError for a tree that is none."""
        tree = self.panes[0].chat
        following: dict[int | None, list[int]] = defaultdict(list)
        for place, message in enumerate(tree.nodes):
            if message.parent is not None and not 0 <= message.parent < place:
                raise UserError(
                    f"panes.0.chat.nodes.{place}.parent: found {message.parent}, should be an earlier place"
                )
            following[message.parent].append(place)
        system = [SavedMessage(role="system", content=self.system)] if self.system.strip() else []
        shown: list[SavedMessage] = []
        followers, pick = following[None], tree.pick
        while followers:
            if not 0 <= pick < len(followers):
                raise UserError(f"panes.0.chat: found pick {pick}, should be 0 to {len(followers) - 1}")
            message = tree.nodes[followers[pick]]
            shown.append(SavedMessage(role=message.role, content=message.text))
            followers, pick = following[followers[pick]], message.pick
        return SavedTalk(messages=[*system, *shown], you=self.names.user, bot=self.names.assistant)


def read(path: Path) -> SavedTalk:
    """The talk in a file. Raises UserError where it is none, OSError."""
    content = durable.read_bytes(path)
    kind: type[SavedTalk | PageTalk] = PageTalk if b'"nanogpt conversation"' in content[:100] else SavedTalk
    try:
        talk = kind.model_validate_json(content)
    except ValidationError as error:
        raise UserError(": ".join(filter(None, explain(kind, error)))) from None
    return talk.as_talk() if isinstance(talk, PageTalk) else talk
