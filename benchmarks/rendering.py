"""What filling a message costs: ``make bench-rendering`` (some seconds).

For each of the five kinds of the provider's pages, a campaign's message with columns where a campaign has them is
compiled once, and then made into the bytes for the wire row after row, as a worker does it: ``recipients.render``.
Rows differ, so that nothing is remembered. Processor time of this thread per row: the median over batches, and the
slowest batch in a hundred.
"""

import argparse
import copy
import itertools
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from disparo import recipients
from disparo.campaigns import compile_message
from disparo.rendering import Content

SEEDS = Path(__file__).parent.parent / "tests" / "data" / "seeds"
#: What the multi-product template may cost, in microseconds.
MOST = 60.0
BATCH = 100


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=30_000, help="rows of each kind")
    options = parser.parse_args()
    rows = [row(n) for n in range(1_000)]
    print(f"Python {sys.version.split()[0]}; {options.rows:,} rows of each kind")
    print(f"{'kind':<22} {'placeholders':>12} {'bytes':>6} {'us/recipient':>12} {'99 %':>6}")
    medians = {}
    for kind, change in KINDS.items():
        document = json.loads((SEEDS / f"{kind}.json").read_text(encoding="utf-8"))
        change(document)
        message, envelope = compile_message(document)
        size = len(recipients.render(message, envelope, rows[0], rows[0]["to"]))
        costs = measure(message, envelope, rows, options.rows)
        medians[kind] = statistics.median(costs)
        slow = statistics.quantiles(costs, n=100)[98]
        print(f"{kind:<22} {len(message.places):>12} {size:>6,} {medians[kind]:>12.1f} {slow:>6.1f}")
    met = medians["mpm_template"] <= MOST
    print(
        f"multi-product template: {medians['mpm_template']:.1f} us, at most {MOST:g}: {'met' if met else 'MISSED'}"
    )
    return 0 if met else 1


def measure(message: Content, envelope: Content, rows: list[dict[str, Any]], n: int) -> list[float]:
    """Microseconds per row, of each batch of a hundred."""
    costs, source = [], itertools.cycle(rows)
    for _ in range(n // BATCH):
        batch = list(itertools.islice(source, BATCH))
        begun = time.thread_time_ns()
        for params in batch:
            recipients.render(message, envelope, params, params["to"])
        costs.append((time.thread_time_ns() - begun) / BATCH / 1_000)
    return costs


def row(n: int) -> dict[str, Any]:
    return {
        "to": f"55119{80000000 + n}",
        "nome": f"MARIA JOSÉ DA SILVA {n}",
        "cupom": f"BLACK{n}" if n % 10 else "",
        "p1": f"2lc203{n:05}",
        "p2": f"nseiw1{n:05}",
        "p3": f"n6k6x0{n:05}",
        "valor": f"R$ 1.{n:03},56",
        "amount_cents": 100_056 + 100 * n,
        "vencimento": f"{n % 28 + 1:02}/12/2026",
        "reference": f"MENSALIDADE-{n}",
        "code": "00020101021226900014br.gov.bcb.pix2568pix.example.com/qr/payload/v2/085e4c08-dede-404f-b312-"
        f"6566c5{n:06}5204000053039865802BR5913ESCOLA MODELO6009SAO PAULO62070503***6304{n:04X}",
    }


def _text(document: Any) -> None:
    document["text"]["body"] = (
        "Oi {{ nome | first_name }}, sua fatura de {{ valor | cents | brl }} vence em {{ vencimento | date }}."
    )


def _interactive_button(document: Any) -> None:
    document["interactive"]["body"]["text"] = (
        "Oi {{ nome | first_name }}, você confirma {{ vencimento | date('%d de %B') }}?"
    )
    document["interactive"]["action"]["buttons"][0]["reply"]["id"] = "confirma-{{ reference }}"


def _mpm_template(document: Any) -> None:
    header, body, button = document["template"]["components"]
    header["parameters"][0]["text"] = "{{ nome | first_name }}"
    body["parameters"][0]["text"] = "{{ cupom | default('10OFF') }}"
    action = button["parameters"][0]["action"]
    action["thumbnail_product_retailer_id"] = "{{ p1 }}"
    first, second = action["sections"]
    first["product_items"] = [{"product_retailer_id": "{{ p1 }}"}, {"product_retailer_id": "{{ p2 }}"}]
    second["product_items"] = [{"product_retailer_id": "{{ p3 }}"}]


def _pix(order: Any) -> None:
    order["reference_id"] = "{{ reference }}"
    order["payment_settings"][0]["pix_dynamic_code"]["code"] = "{{ code }}"
    item = order["order"]["items"][0]
    item["name"] = "Mensalidade {{ vencimento | date('%m/%Y') }}"
    for amount in (order["total_amount"], order["order"]["subtotal"], item["amount"]):
        amount["value"] = "{{ amount_cents }}"


def _pix_session(document: Any) -> None:
    document["interactive"]["body"]["text"] = (
        "Olá {{ nome | first_name }}, segue o seu PIX de {{ amount_cents | brl }}."
    )
    _pix(document["interactive"]["action"]["parameters"])


def _pix_template(document: Any) -> None:
    (button,) = document["template"]["components"]
    body = {"type": "body", "parameters": [{"type": "text", "text": "{{ nome | first_name }}"}]}
    document["template"]["components"] = [body, copy.deepcopy(button)]
    _pix(document["template"]["components"][1]["parameters"][0]["action"]["order_details"])


KINDS: dict[str, Callable[[Any], None]] = {
    "text": _text,
    "interactive_button": _interactive_button,
    "pix_session": _pix_session,
    "pix_template": _pix_template,
    "mpm_template": _mpm_template,
}


if __name__ == "__main__":
    sys.exit(main())
