"""The vocabulary of the phrases, as CLDR codes: small, so that each is frequent in a few thousand pairs."""

# Populous territories and widely spoken languages, listed here because Babel has no population figures.
_TERRITORIES = """
CN IN US ID PK NG BR BD RU MX ET JP PH EG VN TR IR DE TH GB FR TZ ZA IT KE CO KR UG ES DZ
AR AF PL CA MA SA UA UZ PE MY GH NP AU CL NL BE SE GR PT FI
"""
_LANGUAGES = """
en zh hi es ar bn fr ru pt ur id de ja mr te tr ta vi ko it th gu fa pl kn sw uk nl ro el hu cs sv he fi
"""
TERRITORIES = tuple(_TERRITORIES.split())
LANGUAGES = tuple(_LANGUAGES.split())
NAMED = {"territories": TERRITORIES, "languages": LANGUAGES}

CURRENCIES = ("USD", "EUR", "GBP", "JPY", "CNY", "INR", "CAD", "AUD", "CHF", "MXN", "BRL", "KRW")

CLOCK = ("duration-second", "duration-minute", "duration-hour")
CALENDAR = ("duration-day", "duration-week", "duration-month", "duration-year")
UNITS = (
    *CLOCK,
    *CALENDAR,
    "length-centimeter",
    "length-meter",
    "length-kilometer",
    "length-foot",
    "length-inch",
    "length-mile",
    "area-square-meter",
    "area-square-kilometer",
    "volume-liter",
    "volume-cubic-meter",
    "mass-gram",
    "mass-kilogram",
    "temperature-celsius",
    "speed-kilometer-per-hour",
    "digital-megabyte",
    "power-watt",
    "energy-kilowatt-hour",
)

# Units that are counted per unit of time. CLDR has no unit of its own for these rates, unlike km/h.
FLOWS = ("volume-liter", "volume-cubic-meter", "mass-kilogram", "digital-megabyte", "energy-kilowatt-hour")
PRICED = ("mass-kilogram", "volume-liter", "length-meter", "duration-hour", "duration-day", "duration-month")

# The units of a span, each with the largest count before the next larger unit would be used.
SPANS = (
    (("duration-year", 99), ("duration-month", 11)),
    (("duration-week", 51), ("duration-day", 6)),
    (("duration-day", 30), ("duration-hour", 23)),
    (("duration-hour", 23), ("duration-minute", 59)),
    (("duration-minute", 59), ("duration-second", 59)),
    (("duration-hour", 23), ("duration-minute", 59), ("duration-second", 59)),
    (("duration-day", 30), ("duration-hour", 23), ("duration-minute", 59)),
    (("length-meter", 99), ("length-centimeter", 99)),
    (("length-foot", 9), ("length-inch", 11)),
    (("mass-kilogram", 99), ("mass-gram", 999)),
)
