"""Text, files, places, contacts and reactions."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from disparo.whatsapp.compositions.base import Message, given
from disparo.whatsapp.payloads.base import JSONObject


@dataclass(frozen=True, slots=True)
class Text(Message):
    """A text, inside the 24-hour window.

    Args:
      body: 1 to 4096 characters.
      preview_url: Whether the first address in it is shown with a picture.

    Source: Gupshup, V3 passthrough, Text Message.
    """

    body: str
    preview_url: bool | None = None

    def message(self) -> JSONObject:
        return {"type": "text", "text": given(body=self.body, preview_url=self.preview_url)}


@dataclass(frozen=True, slots=True)
class File(Message):
    """A file that was uploaded (``id``, kept 30 days) or that WhatsApp fetches (``link``); exactly one of both."""

    kind: ClassVar[str]

    link: str | None = None
    id: str | None = None

    def content(self) -> JSONObject:
        return given(link=self.link, id=self.id)

    def message(self) -> JSONObject:
        return {"type": self.kind, self.kind: self.content()}


@dataclass(frozen=True, slots=True)
class CaptionedFile(File):
    """A file with words below it."""

    caption: str | None = None

    def content(self) -> JSONObject:
        return given(link=self.link, id=self.id, caption=self.caption)


@dataclass(frozen=True, slots=True)
class Image(CaptionedFile):
    """A picture: JPEG or PNG, up to 5 MB. Also the header of other messages.

    Args:
      caption: Up to 1024 characters.

    Source: Meta, WhatsApp Business Platform, Image messages.
    """

    kind: ClassVar[str] = "image"


@dataclass(frozen=True, slots=True)
class Video(CaptionedFile):
    """A video: MP4 or 3GPP with H.264 and AAC, up to 16 MB. Also the header of other messages.

    Args:
      caption: Up to 1024 characters.

    Source: Meta, WhatsApp Business Platform, Video messages.
    """

    kind: ClassVar[str] = "video"


@dataclass(frozen=True, slots=True)
class Document(CaptionedFile):
    """A document: PDF, text or of an office program, up to 100 MB. Also the header of other messages.

    Args:
      caption: Up to 1024 characters.
      filename: What the recipient sees; its ending decides on the icon.

    Source: Meta, WhatsApp Business Platform, Document messages.
    """

    kind: ClassVar[str] = "document"

    filename: str | None = None

    def content(self) -> JSONObject:
        return given(link=self.link, id=self.id, caption=self.caption, filename=self.filename)


@dataclass(frozen=True, slots=True)
class Audio(File):
    """Sound: AAC, AMR, MP3, M4A or OGG, up to 16 MB.

    Args:
      voice: Shown as a voice message; needs OGG with Opus.

    Source: Meta, WhatsApp Business Platform, Audio messages.
    """

    kind: ClassVar[str] = "audio"

    voice: bool | None = None

    def content(self) -> JSONObject:
        return given(link=self.link, id=self.id, voice=self.voice)


@dataclass(frozen=True, slots=True)
class Sticker(File):
    """A sticker: WebP, up to 100 KB, animated 500 KB.

    Source: Meta, WhatsApp Business Platform, Sticker messages.
    """

    kind: ClassVar[str] = "sticker"


@dataclass(frozen=True, slots=True)
class Location(Message):
    """A place on the map. The address is shown only with a name.

    Args:
      latitude: -90 to 90 degrees.
      longitude: -180 to 180 degrees.

    Source: Meta, WhatsApp Business Platform, Location messages.
    """

    latitude: float
    longitude: float
    name: str | None = None
    address: str | None = None

    def content(self) -> JSONObject:
        return given(latitude=self.latitude, longitude=self.longitude, name=self.name, address=self.address)

    def message(self) -> JSONObject:
        return {"type": "location", "location": self.content()}


@dataclass(frozen=True, slots=True)
class Contact:
    """A person or a firm in a contact card, for `Contacts`.

    Args:
      formatted_name: The whole name, as it is shown.
      first_name: WhatsApp may refuse a card that has none of the name's parts.
      birthday: YYYY-MM-DD.
    """

    formatted_name: str
    first_name: str | None = None
    last_name: str | None = None
    phones: Sequence[str] = ()
    emails: Sequence[str] = ()
    urls: Sequence[str] = ()
    company: str | None = None
    birthday: str | None = None

    def content(self) -> JSONObject:
        return given(
            name=given(
                formatted_name=self.formatted_name, first_name=self.first_name, last_name=self.last_name
            ),
            phones=[{"phone": phone} for phone in self.phones] or None,
            emails=[{"email": email} for email in self.emails] or None,
            urls=[{"url": url} for url in self.urls] or None,
            org=given(company=self.company) or None,
            birthday=self.birthday,
        )


@dataclass(frozen=True, slots=True)
class Contacts(Message):
    """1 to 257 contact cards.

    Source: Meta, WhatsApp Business Platform, Contacts messages.
    """

    contacts: Sequence[Contact]

    def message(self) -> JSONObject:
        return {"type": "contacts", "contacts": [contact.content() for contact in self.contacts]}


@dataclass(frozen=True, slots=True)
class Reaction(Message):
    """An emoji on a message of the recipient; without one, the reaction is taken back.

    Args:
      message_id: The wamid of a message not older than 30 days.

    Source: Meta, WhatsApp Business Platform, Reaction messages.
    """

    message_id: str
    emoji: str = ""

    def message(self) -> JSONObject:
        return {"type": "reaction", "reaction": {"message_id": self.message_id, "emoji": self.emoji}}
