"""Text, files, places, contacts and reactions: the messages that are one object."""

import re
from collections.abc import Iterator
from datetime import date
from typing import Annotated, Any, TypeAlias

from pydantic import AfterValidator, Field, model_validator

from disparo.whatsapp.payloads.base import Address, JSONObject, Model, Oddity, Text, broken


class TextContent(Model):
    body: Annotated[str, Field(min_length=1, max_length=4096)]
    preview_url: bool | None = None


class Media(Model):
    """A file: uploaded before (``id``) or fetched by WhatsApp (``link``)."""

    id: Text | None = None
    link: Address | None = None
    #: Who serves the link, in Meta's pages on orders.
    provider: str | JSONObject | None = None

    @model_validator(mode="after")
    def _one_source(self) -> "Media":
        if (self.id is None) == (self.link is None):
            raise broken("needs exactly one of id and link")
        return self


class CaptionedMedia(Media):
    caption: Annotated[str, Field(max_length=1024)] | None = None


class Document(CaptionedMedia):
    filename: str | None = None


class Audio(Media):
    voice: bool | None = None


class Location(Model):
    latitude: Annotated[Any, AfterValidator(lambda value: _degrees(value, 90))]
    longitude: Annotated[Any, AfterValidator(lambda value: _degrees(value, 180))]
    name: str | None = None
    address: str | None = None

    def oddities(self) -> Iterator[Oddity]:
        if self.address and not self.name:
            yield "address", "is shown only when there is a name too", None


def _degrees(value: object, most: int) -> object:
    """A place as Meta's pages write it: a number, or a text of digits."""
    limit = f"-{most} to {most}"
    number = isinstance(value, int | float) and not isinstance(value, bool)
    written = isinstance(value, str) and re.fullmatch(r"[+-]?[0-9]+(\.[0-9]*)?", value)
    if not (number or written) or not -most <= float(str(value)) <= most:
        raise broken(f"is a number of degrees, {limit}", value=value, limit=limit)
    return value


class ContactName(Model):
    formatted_name: Text
    first_name: str | None = None
    last_name: str | None = None
    middle_name: str | None = None
    suffix: str | None = None
    prefix: str | None = None

    def oddities(self) -> Iterator[Oddity]:
        if not (self.first_name or self.last_name or self.middle_name or self.suffix or self.prefix):
            yield (
                "",
                "has formatted_name alone; WhatsApp may want a second part, such as first_name",
                None,
            )


class ContactPhone(Model):
    phone: str | None = None
    type: str | None = None
    wa_id: str | None = None


class ContactEmail(Model):
    email: str | None = None
    type: str | None = None


class ContactAddress(Model):
    street: str | None = None
    city: str | None = None
    state: str | None = None
    zip: str | None = None
    country: str | None = None
    country_code: str | None = None
    type: str | None = None


class ContactCompany(Model):
    company: str | None = None
    department: str | None = None
    title: str | None = None


class ContactURL(Model):
    url: str | None = None
    type: str | None = None


def _birthday(text: str) -> str:
    try:
        date.fromisoformat(text)
    except ValueError:
        raise broken("is no date", value=text, limit="YYYY-MM-DD") from None
    return text


class Contact(Model):
    name: ContactName
    phones: list[ContactPhone] | None = None
    emails: list[ContactEmail] | None = None
    addresses: list[ContactAddress] | None = None
    org: ContactCompany | None = None
    urls: list[ContactURL] | None = None
    birthday: (
        Annotated[str, Field(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$"), AfterValidator(_birthday)] | None
    ) = None


Contacts: TypeAlias = Annotated[list[Contact], Field(min_length=1, max_length=257)]


class Reaction(Model):
    message_id: Text
    #: Empty takes the reaction back.
    emoji: str
