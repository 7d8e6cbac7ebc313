"""Send WhatsApp messages in bulk through Gupshup's Partner V3 API and account for every one.

The messages in Python are here by name, ``from disparo import Text, Template, PixCode``, and loaded when they are
asked for, so that importing the library stays quick.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from disparo.whatsapp.compositions import (
        AddressRequest as AddressRequest,
    )
    from disparo.whatsapp.compositions import (
        Audio as Audio,
    )
    from disparo.whatsapp.compositions import (
        Boleto as Boleto,
    )
    from disparo.whatsapp.compositions import (
        Buttons as Buttons,
    )
    from disparo.whatsapp.compositions import (
        CallButton as CallButton,
    )
    from disparo.whatsapp.compositions import (
        CallPermissionRequest as CallPermissionRequest,
    )
    from disparo.whatsapp.compositions import (
        Carousel as Carousel,
    )
    from disparo.whatsapp.compositions import (
        Catalog as Catalog,
    )
    from disparo.whatsapp.compositions import (
        CatalogButton as CatalogButton,
    )
    from disparo.whatsapp.compositions import (
        CatalogItem as CatalogItem,
    )
    from disparo.whatsapp.compositions import (
        Contact as Contact,
    )
    from disparo.whatsapp.compositions import (
        ContactRequest as ContactRequest,
    )
    from disparo.whatsapp.compositions import (
        Contacts as Contacts,
    )
    from disparo.whatsapp.compositions import (
        CouponCode as CouponCode,
    )
    from disparo.whatsapp.compositions import (
        Document as Document,
    )
    from disparo.whatsapp.compositions import (
        Flow as Flow,
    )
    from disparo.whatsapp.compositions import (
        FlowButton as FlowButton,
    )
    from disparo.whatsapp.compositions import (
        Image as Image,
    )
    from disparo.whatsapp.compositions import (
        Item as Item,
    )
    from disparo.whatsapp.compositions import (
        Link as Link,
    )
    from disparo.whatsapp.compositions import (
        LinkCard as LinkCard,
    )
    from disparo.whatsapp.compositions import (
        ListMessage as ListMessage,
    )
    from disparo.whatsapp.compositions import (
        Location as Location,
    )
    from disparo.whatsapp.compositions import (
        LocationRequest as LocationRequest,
    )
    from disparo.whatsapp.compositions import (
        Message as Message,
    )
    from disparo.whatsapp.compositions import (
        MPMButton as MPMButton,
    )
    from disparo.whatsapp.compositions import (
        OneClickCard as OneClickCard,
    )
    from disparo.whatsapp.compositions import (
        Order as Order,
    )
    from disparo.whatsapp.compositions import (
        OrderButton as OrderButton,
    )
    from disparo.whatsapp.compositions import (
        OrderStatus as OrderStatus,
    )
    from disparo.whatsapp.compositions import (
        PaymentLink as PaymentLink,
    )
    from disparo.whatsapp.compositions import (
        PixCode as PixCode,
    )
    from disparo.whatsapp.compositions import (
        Product as Product,
    )
    from disparo.whatsapp.compositions import (
        ProductCard as ProductCard,
    )
    from disparo.whatsapp.compositions import (
        ProductList as ProductList,
    )
    from disparo.whatsapp.compositions import (
        QuickReply as QuickReply,
    )
    from disparo.whatsapp.compositions import (
        Reaction as Reaction,
    )
    from disparo.whatsapp.compositions import (
        ReplyCard as ReplyCard,
    )
    from disparo.whatsapp.compositions import (
        Row as Row,
    )
    from disparo.whatsapp.compositions import (
        Sticker as Sticker,
    )
    from disparo.whatsapp.compositions import (
        Template as Template,
    )
    from disparo.whatsapp.compositions import (
        TemplateCard as TemplateCard,
    )
    from disparo.whatsapp.compositions import (
        Text as Text,
    )
    from disparo.whatsapp.compositions import (
        URLEnding as URLEnding,
    )
    from disparo.whatsapp.compositions import (
        Video as Video,
    )

__version__ = "0.1.0"

_COMPOSITIONS = "disparo.whatsapp.compositions"


def __getattr__(name: str) -> Any:
    # Names of modules come by here too when one is asked for before it is imported.
    if name[:1].isupper() and name in (compositions := import_module(_COMPOSITIONS)).__all__:
        found = globals()[name] = getattr(compositions, name)
        return found
    raise AttributeError(f"module 'disparo' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *import_module(_COMPOSITIONS).__all__})
