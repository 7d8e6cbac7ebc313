"""What the models of all messages share: strict objects, broken rules, oddities, the lengths in use."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, TypeAlias

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

JSONObject: TypeAlias = dict[str, Any]

Oddity: TypeAlias = tuple[str, str, object]
"""What is odd, from the model that says it: path, sentence, value to show."""


class Model(BaseModel):
    """An object of a message. Types are strict: a text "1" is no number. Keys are those of the documentation."""

    # Built on first use: most commands check no message, or one type only.
    model_config = ConfigDict(strict=True, extra="forbid", defer_build=True)

    def oddities(self) -> Iterator[Oddity]:
        """What is odd about this object but does not keep it from being sent."""
        return iter(())


def broken(
    sentence: str, at: str = "", value: object = None, limit: str | None = None
) -> PydanticCustomError:
    """A broken rule of several fields; ``at`` is where it shows, from the model that looks."""
    if isinstance(value, str):
        # Half of a character can be shown nowhere.
        value = value.encode("utf-8", "replace").decode()
    return PydanticCustomError(
        "rule", "{sentence}", {"sentence": sentence, "at": at, "value": value, "limit": limit}
    )


def kind_of(value: object) -> str | None:
    """The ``type`` of an object as its models know it. WhatsApp takes the words in either case."""
    if isinstance(value, Mapping) and isinstance(value.get("type"), str):
        kind: str = value["type"].lower()
        return kind
    return None


def tag_of(value: object) -> str | None:
    """Which member of a union reads an object: its type, marked so that no path takes it for a key."""
    kind = kind_of(value)
    return kind and f"={kind}"


def repeated(values: list[Any]) -> Iterator[tuple[int, Any]]:
    """Place and value of every entry that stands earlier in the list too."""
    seen: set[str] = set()
    for place, value in enumerate(values):
        if (written := repr(value)) in seen:
            yield place, value
        seen.add(written)


def _address(text: str) -> str:
    scheme, _, rest = text.partition("://")
    if scheme.lower() not in ("http", "https") or not rest or any(char.isspace() for char in text):
        raise broken("is an address that begins with https:// or http://", value=text)
    return text


EITHER_CASE = BeforeValidator(lambda value: value.lower() if isinstance(value, str) else value)
"""For a word that WhatsApp takes in capitals too."""

Text: TypeAlias = Annotated[str, Field(min_length=1)]
Text20: TypeAlias = Annotated[str, Field(min_length=1, max_length=20)]
Title24: TypeAlias = Annotated[str, Field(max_length=24)]
Text60: TypeAlias = Annotated[str, Field(min_length=1, max_length=60)]
Text1024: TypeAlias = Annotated[str, Field(min_length=1, max_length=1024)]
Note60: TypeAlias = Annotated[str, Field(max_length=60)]
Note120: TypeAlias = Annotated[str, Field(max_length=120)]
Address: TypeAlias = Annotated[str, AfterValidator(_address)]
CardPlace: TypeAlias = Annotated[int, Field(ge=0, le=9)]
