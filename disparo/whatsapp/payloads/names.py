"""What messages and their parts are called."""

from collections.abc import Iterator, Mapping
from typing import Any

from disparo.whatsapp.payloads.base import kind_of

# What a template is called by when it has such a component.
_TELLING = frozenset(
    {"carousel", "limited_time_offer", "order_status"}
    | {
        f"button {name}"
        for name in ("copy_code", "catalog", "mpm", "flow", "order_details", "payment_request", "voice_call")
    }
)


def component_tag(value: object) -> str | None:
    """Which model reads a template's component: its type, of a button also the sub_type."""
    kind = kind_of(value)
    if kind != "button" or not isinstance(value, Mapping):
        return kind
    sub_type = value.get("sub_type")
    return f"button {sub_type.lower()}" if isinstance(sub_type, str) else "button"


def kinds(message: Mapping[str, Any]) -> list[str]:
    """What an interactive message is, and every telling part of a template: ``order_details``, ``mpm`` …"""
    return list(_kinds(message))


def _kinds(message: Mapping[str, Any]) -> Iterator[str]:
    content = message.get(str(message.get("type")))
    if message.get("type") == "interactive":
        if (kind := kind_of(content)) is not None:
            yield kind
    elif message.get("type") == "template" and isinstance(content, Mapping):
        components = content.get("components")
        for component in components if isinstance(components, list) else ():
            if (tag := component_tag(component)) in _TELLING:
                yield str(tag).removeprefix("button ")


def kind(message: Mapping[str, Any]) -> str:
    """A short label for screens: ``text``, ``interactive button``, ``template``, ``template mpm`` …"""
    label = message.get("type")
    if not isinstance(label, str):
        return "unknown"
    inner = kinds(message)
    return f"{label} {inner[0]}" if inner else label


def template_name(message: Mapping[str, Any]) -> str | None:
    """Name and language of a template message, ``black_friday/pt_BR``; None for every other message."""
    template = message.get("template")
    if message.get("type") != "template" or not isinstance(template, Mapping):
        return None
    language = template.get("language")
    code = language.get("code") if isinstance(language, Mapping) else None
    return f"{template.get('name')}/{code}" if code else str(template.get("name"))
