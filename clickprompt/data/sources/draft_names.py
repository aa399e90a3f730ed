"""Read the name of a column: which words it has, and what columns of that name usually are."""

import re
from collections.abc import Iterable

from clickprompt.data.prepared.dataset import slug

__all__ = [
    "EVENTS",
    "LABELS",
    "RATINGS",
    "are_alike",
    "is_id",
    "is_item",
    "is_outcome",
    "is_request",
    "is_session",
    "is_split",
    "is_time",
    "is_user",
    "plain_name",
    "readable",
    "unused",
]

LABELS = (
    "click",
    "clicked",
    "isclick",
    "isclicked",
    "clk",
    "label",
    "target",
    "converted",
    "conversion",
    "isconversion",
    "purchased",
    "bought",
    "liked",
    "y",
)
RATINGS = (
    "rating",
    "ratings",
    "stars",
    "score",
    "overall",
    "grade",
    "bookrating",
    "userrating",
    "reviewrating",
    "starrating",
)
EVENTS = (
    "event",
    "eventtype",
    "eventname",
    "action",
    "actiontype",
    "behavior",
    "behaviour",
    "behaviortype",
    "interaction",
    "interactiontype",
    "activity",
)

_USERS = (
    "user",
    "customer",
    "member",
    "visitor",
    "reviewer",
    "viewer",
    "client",
    "person",
    "account",
    "shopper",
)
_ITEMS = (
    *(
        "item",
        "product",
        "movie",
        "film",
        "book",
        "news",
        "article",
        "ad",
        "adgroup",
        "creative",
        "video",
        "song",
        "track",
        "business",
        "listing",
    ),
    *(
        "post",
        "page",
        "game",
        "app",
        "course",
        "recipe",
        "anime",
        "isbn",
        "asin",
        "sku",
        "document",
        "doc",
        "content",
        "goods",
    ),
)
_IDS = (
    "id",
    "ids",
    "key",
    "code",
    "uuid",
    "guid",
    "isbn",
    "asin",
    "sku",
    "zip",
    "zipcode",
    "postcode",
    "hash",
    "no",
    "nr",
)
_TIMES = (
    "time",
    "timestamp",
    "ts",
    "date",
    "datetime",
    "dt",
    "day",
    "ds",
    "hour",
    "at",
    "unixtime",
    "epoch",
    "created",
    "when",
    "unixreviewtime",
    "eventtime",
)
_UNITS = ("s", "sec", "secs", "seconds", "ms", "millis", "milliseconds", "us", "ns", "utc", "unix")
_DONE = (
    *("like", "liked", "follow", "comment", "forward", "hate", "share", "shared", "favorite", "favourite"),
    *("collect", "bookmark", "profileenter", "install", "purchase", "order", "buy", "addtocart"),
)
_OUTCOMES = (
    *("longview", "playtime", "playduration", "playseconds", "watchtime", "watchingtimes", "watchduration"),
    *("watchratio", "dwelltime", "readtime", "staytime", "profilestaytime", "commentstaytime", "viewtime"),
    *("transactionid", "orderid", "purchaseid", "conversionid", "clicktime", "clickid", "conversiontime"),
    *("reviewtext", "reviewtitle", "reviewbody", "reviewsummary", "review", "useful", "funny", "helpful"),
    *("helpfulvotes", "totalvotes", "vote", "votes"),
)
_TYPED = re.compile(":(token|float)(_seq)?$")  # RecBole: the type behind the name in a file's first line
_REQUESTS = ("request", "impression", "query", "requestid", "impressionid", "queryid", "searchid", "search")
_UPPER = {
    "id": "ID",
    "ids": "IDs",
    "url": "URL",
    "isbn": "ISBN",
    "asin": "ASIN",
    "sku": "SKU",
    "ip": "IP",
    "uuid": "UUID",
    "os": "OS",
}
_LONGEST = 60  # most characters of a field's name


def words(name: str) -> list[str]:
    """Split a name into lower-case words: movieId, movie_id and movie.id are movie and id; so are those of
    movie_id:token.
    """
    name = _TYPED.sub("", name)
    apart = re.sub(r"([a-z0-9])([A-Z])", r"\1 \2", re.sub(r"([A-Z]+)([A-Z][a-z])", r"\1 \2", name))
    return [word.lower() for word in re.findall(r"[^\W_]+", apart)]


def plain_name(name: str) -> str:
    """Join the name's words to one, in lower case."""
    return "".join(words(name))


def last_part(name: str) -> str:
    """Return what a nested column is called in its struct: clicked for impressions.clicked."""
    return name.rpartition(".")[2]


def readable(name: str) -> str:
    """Make the name readable: movieId → Movie ID; possibly empty."""
    found = words(name)
    if (
        len(found) == 1
        and found[0].endswith("id")
        and found[0][:-2] in (*_USERS, *_ITEMS, "session", "category", "brand")
    ):
        found = [found[0][:-2], "id"]
    text = " ".join(_UPPER.get(word, word) for word in found)
    return (text[:1].upper() + text[1:])[:_LONGEST].strip()


def unused(wanted: Iterable[str], taken: set[str]) -> str:
    """Return, and take, the first name whose column isn't `taken` (data/prepared/dataset.py), or else the
    last one with a number.
    """
    name = ""
    for candidate in wanted:
        name = candidate
        if slug(name) and slug(name) not in taken:
            break
    base, number = name or "Field", 2
    while slug(name) in taken or not slug(name):
        name, number = f"{base} {number}", number + 1
    taken.add(slug(name))
    return name


def is_user(name: str) -> bool:
    return _is_of(name, _USERS) or plain_name(name) in ("uid", "userno", "usernumber")


def is_item(name: str) -> bool:
    return _is_of(name, _ITEMS) or plain_name(name) in ("iid", "itemno", "itemnumber")


def _is_of(name: str, kinds: tuple[str, ...]) -> bool:
    return any(
        whole in (kind, f"{kind}s", f"{kind}id", f"{kind}key", f"{kind}uuid", f"{kind}code")
        for kind in kinds
        for whole in (plain_name(name), plain_name(last_part(name)))
    )


def is_id(name: str) -> bool:
    """Return whether numbers in a column of this name are ids, not quantities."""
    found = words(name)
    return (
        name.endswith(":token")
        or is_user(name)
        or is_item(name)
        or is_session(name)
        or (bool(found) and (found[-1] in _IDS or readable(name).endswith(" ID")))
    )


def is_time(name: str) -> bool:
    found = words(name)
    if len(found) > 1 and found[-1] in _UNITS:
        found = found[:-1]
    return bool(found) and (
        found[-1] in _TIMES or plain_name(name) in _TIMES or found[0] in ("timestamp", "datetime")
    )


def is_outcome(name: str) -> bool:
    """Return whether a log's column of this name says what a user did after, or besides, the click."""
    found = words(name)
    if len(found) > 1 and found[-1] in _UNITS:
        found = found[:-1]
    whole = "".join(found)
    return whole in _OUTCOMES or (found[:1] == ["is"] and whole[2:] in _DONE)


def is_split(name: str) -> bool:
    return plain_name(name) in ("split", "fold", "set", "subset", "partition", "part")


def is_session(name: str) -> bool:
    return "session" in words(name) or plain_name(name).endswith("sessionid")


def is_request(name: str) -> bool:
    found = words(name)
    return plain_name(name) in _REQUESTS or (len(found) == 2 and found[0] in _REQUESTS and found[1] in _IDS)


def are_alike(column: str, key: str, table: str) -> bool:
    """Return whether a log's column may hold the keys of a table: movieId and movie_id; movie_id and id of
    movies; movie and movie_id.
    """
    column, key, table = plain_name(column), plain_name(key), plain_name(table)
    if column == key or _stem(column) == _stem(key) != "":
        return True
    return key in _IDS and _stem(column) in (
        table,
        table.removesuffix("s"),
        table.removesuffix("es"),
        re.sub("ies$", "y", table),
    ) != ("",)


def _stem(name: str) -> str:
    return re.sub("(?<=.)(id|key|uuid)$", "", name)
