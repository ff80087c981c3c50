"""Words that the reading of sentences knows: function words, irregular forms, and what stands beside names."""

from __future__ import annotations

import re

SOFT_NUMBERS = frozenset(("zero", "one", "two"))  # used for "none", "somebody", "both"

_FUNCTION_WORDS = """
a about above according after again all also although always am an and any are as at be because been before being
below between both but by can cannot could did do does doing done down due during each either else even ever
every few first following for from further get gets given had has have having he hence her here hers him his how
however i if in including into is it its itself just less like made make makes many may me means might more most
much must my need needs no nor not now of off often on once only or other others our out over own per please
rather same see several shall she should since so some such than that the their them then there therefore these
they this those though through thus to too under until up upon us use used uses using very via was we well
were what when where whether which while who whom whose why will with within without would yes yet you your
source sources document documents text context information answer question note degrees celsius fahrenheit
der die das den dem des ein eine einen einem einer eines und oder aber ist sind war waren wird werden wurde hat
haben mit von vom zu zum zur im ins in an am auf aus bei nach für über unter nicht auch als wie wenn dass sich
es er sie ihr ihre sein seine nur noch kann können muss müssen dieser diese dieses man so um durch
le la les un une des du de et ou est sont été dans sur par pour avec sans que qui ne pas plus ce cette ces il
elle ils elles se son sa ses au aux en el los las una unos unas y o es son del al con sin por para no más lo
beim vom ins ab seit bis vor ohne gegen alle alles allen beide beiden jede jeder jedes mehr sehr viele wenige einige
kein keine keinen keiner hier dort dann dabei damit davon dazu diesem diesen unser unsere euer man mich mir wir ihm ihn
gmbh inc llc ltd plc sarl corp
il di da che non è sono della dei delle nel nella con per
"""
STOPWORDS = frozenset(_FUNCTION_WORDS.split())
_GERMAN_WORDS = """
der die das den dem des ein eine einen einem einer und ist sind war wird werden wurde mit von zu zum zur im auf
aus bei nach für über nicht auch als wie wenn dass sich es kann muss hat haben
"""
GERMAN = frozenset(_GERMAN_WORDS.split())


_TITLES = """
mr mrs ms dr prof professor doctor director president engineer chemist explorer train company king queen captain ceo
founder author minister chancellor mayor senator judge chairman chairwoman saint sir lady yesterday today tomorrow
monday tuesday wednesday thursday friday saturday sunday river lake mount city state model version figure table chapter
section page part step option article product customer patient user driver manager former late dear new every no only
herr frau firma stadt familie ende anfang mitte seite artikel abschnitt kapitel typ modell produkt uhr euro prozent
water paper power weather order number member access data food music staff heat light oil gas air land time work life
money breakfast lunch dinner little much most many some none nothing everything everyone anyone nobody someone people
provider supplier buyer seller licensee licensor employee employer tenant landlord contractor client agreement services
direktor präsident professorin jahr jahre jahren tag tage tagen monat monate monaten stunde stunden minute minuten meter
kilometer kilogramm gramm liter grad million millionen milliarde milliarden gesellschaft société monsieur madame
"""
NO_NAMES = frozenset(_TITLES.split())
_ADJECTIVES_FOLLOW = "a an the is are was were be been very more most so not too and or as less quite fully its"
BEFORE_ADJECTIVES = frozenset(_ADJECTIVES_FOLLOW.split())
_DETERMINERS = """
der die das den dem des ein eine einen einem einer eines kein keine keinen keinem keiner im am zum zur vom beim ins
dieser diese dieses diesen diesem jeder jede jedes jeden jedem und oder mit ohne als seine ihre seinen ihren
"""
_FORMS_OF_FIRMS = "gmbh ag inc llc ltd plc sarl corp se sa kg co"
LEGAL_FORMS = frozenset(_FORMS_OF_FIRMS.split())
ADJECTIVE = re.compile(r"\w+(?:e[nrsm]?)\Z")
ARTICLES = frozenset(_DETERMINERS.split())
# Common nouns and adverbs that begin a sentence as a name might.
COMMON_END = re.compile(r"(?:tion|sion|ment|ity|ness|nce|ing|age|ship|ism|ly|ed|ery|ogy)\Z")
_VERBS = """
is was has had will can could may must should shall would does did became won made makes said lies stands runs wrote
founded offers
a est fut avait doit peut ist war hat wird wurde kann muss liegt
"""
VERBAL = frozenset(_VERBS.split())
AFTER_NAME = re.compile(r"\w{2,}(?:s|ed|te|t|ie|ent)\Z")

_IRREGULAR_WORDS = """
weight:weigh weights:weigh built:build sold:sell sale:sell sales:sell led:lead leads:lead grew:grow grown:grow
growth:grow rose:rise risen:rise paid:pay payment:pay payments:pay wrote:write written:write began:begin begun:begin
ran:run running:run runs:run took:take taken:take gave:give given:give held:hold kept:keep left:leave leaves:leave
bought:buy sent:send spent:spend lost:lose won:win met:meet found:find thought:think went:go gone:go came:come
died:die dies:die dying:die death:die birth:born costs:cost studies:study studied:study lies:lie employees:employ
employee:employ employs:employ employed:employ employment:employ staff:employ prices:price
length:long lengths:long depth:deep height:high width:wide founder:found founded:found storage:store stored:store
"""
IRREGULAR = dict(pair.split(":") for pair in _IRREGULAR_WORDS.split())

_PLACING_WORDS = "in near from to into on through across aus nach à bei um ins"
PLACING = frozenset(_PLACING_WORDS.split())
"""Behind these a name is that of a place, or of a time: not what a sentence speaks of."""

_JOINING_WORDS = "and but while whereas und aber sondern während et mais tandis"
ROLES = frozenset(("ceo", "cfo", "cto", "coo", "cio", "vp", "hr"))  # in capitals, and yet no names
COUNTING = frozenset(("in", "within", "on", "at", "every", "for", "after", "per"))  # between two numbers
CONJUNCTIONS = frozenset(_JOINING_WORDS.split())
"""What stands behind these speaks of something else, a little."""
