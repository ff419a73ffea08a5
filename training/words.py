"""Word lists shared by the pretraining text and by the two demo tasks."""

from __future__ import annotations


def _split(text: str) -> tuple[str, ...]:
    return tuple(text.split())


MONTHS: tuple[str, ...] = (
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
)
WEEKDAYS: tuple[str, ...] = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")

ROOMS: tuple[str, ...] = (
    *_split("kitchen bedroom bathroom garage hallway office attic cellar nursery library studio pantry"),
    *("living room", "dining room", "guest room", "laundry room"),
)

SWITCHED: tuple[str, ...] = _split("lamp fan heater radio television oven kettle humidifier computer speaker")
LIGHTS: tuple[str, ...] = ("lamp", "spotlight", "chandelier", "night light")
OPENED: tuple[str, ...] = _split("window blinds curtains skylight shutters")
LOCKED: tuple[str, ...] = _split("door safe cupboard gate drawer")
DEVICES: tuple[str, ...] = tuple(dict.fromkeys(SWITCHED + LIGHTS + OPENED + LOCKED))

NAMES: tuple[str, ...] = _split(
    "Anna Ben Clara David Emma Felix Grace Henry Irene Jack Karl Laura Martin Nora Oscar Paula Quentin Rosa Simon "
    "Tina Victor Wendy Yusuf Zoe Maria Peter Lucy Tom Alice Bob"
)
ANIMALS: tuple[str, ...] = _split(
    "cat dog horse cow sheep goat pig hen duck mouse fox wolf bear lion tiger frog owl bee fish rabbit"
)
FRUITS: tuple[str, ...] = _split("apple pear plum cherry lemon orange grape melon fig peach banana mango")
COLOURS: tuple[str, ...] = _split("red green blue yellow black white brown grey pink purple orange silver")
THINGS: tuple[str, ...] = _split(
    "book cup plate spoon knife bag coat hat shoe box key map ring rope chair table bottle basket clock coin letter "
    "mirror pillow blanket candle hammer ladder bucket brush pencil"
)
PLACES: tuple[str, ...] = _split(
    "garden market school station harbour church forest village castle bridge river field museum theatre park shop "
    "bakery farm beach island"
)
CITIES: tuple[str, ...] = _split(
    "Rome Paris Berlin Madrid Vienna Oslo Lisbon Prague Dublin Athens Warsaw Helsinki Tokyo Cairo Lima Boston"
)
ADJECTIVES: tuple[str, ...] = _split(
    "old new big small warm cold quiet loud clean dirty heavy light long short happy sad bright dark soft hard"
)
OPPOSITES: tuple[tuple[str, str], ...] = (
    *zip(ADJECTIVES[::2], ADJECTIVES[1::2], strict=True),
    *(("open", "closed"), ("up", "down"), ("left", "right"), ("early", "late"), ("full", "empty"), ("on", "off")),
)
JOBS: tuple[str, ...] = _split("baker teacher doctor farmer sailor painter writer nurse driver cook lawyer pilot")
VERBS: tuple[str, ...] = _split("saw found bought sold lost cleaned carried painted hid took opened closed")
VERB_PHRASES: tuple[str, ...] = (
    "turned on",
    "turned off",
    "switched on",
    "switched off",
    "shut down",
    "locked",
    "unlocked",
    "dimmed",
    "brightened",
    "opened",
    "closed",
    "powered up",
    "looked at",
    "asked for",
    "repaired",
)
# Record keys of the pretraining text: none of them is a key of the `commands` task.
RECORD_KEYS: tuple[str, ...] = _split(
    "name city colour animal job fruit item place age price size count owner title shape speed"
)

_ONES = _split(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen"
)
_ORDINAL_ONES = _split(
    "zeroth first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth fourteenth "
    "fifteenth sixteenth seventeenth eighteenth nineteenth"
)
_TENS = {20: "twenty", 30: "thirty", 40: "forty", 50: "fifty", 60: "sixty", 70: "seventy", 80: "eighty", 90: "ninety"}


def number_word(value: int) -> str:
    """Spell a number from 0 to 99, such as ``forty-two``."""
    if value < 20:
        return _ONES[value]
    tens, ones = value - value % 10, value % 10
    return _TENS[tens] + (f"-{_ONES[ones]}" if ones else "")


def ordinal_word(value: int) -> str:
    """Spell an ordinal from 0 to 99, such as ``twenty-first``."""
    if value < 20:
        return _ORDINAL_ONES[value]
    tens, ones = value - value % 10, value % 10
    return f"{_TENS[tens]}-{_ORDINAL_ONES[ones]}" if ones else _TENS[tens][:-1] + "ieth"


def ordinal(value: int) -> str:
    """Write an ordinal in digits, such as ``21st``."""
    if value % 100 in (11, 12, 13):
        return f"{value}th"
    return f"{value}{ {1: 'st', 2: 'nd', 3: 'rd'}.get(value % 10, 'th') }".replace(" ", "")
