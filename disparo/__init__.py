"""Send WhatsApp messages in bulk through Gupshup's Partner V3 API and account for every one."""

__version__ = "0.1.0"
