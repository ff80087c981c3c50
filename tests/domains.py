"""Kinds of texts over invented facts: what documents say, and how true answers may say it.

A domain has kinds of facts (`slots`), the sentences that a document says of one subject (`says`), and ways in which a
true answer may say them (`tells`). Domains marked `held` are not looked at when rules are made: they show what the
rules are worth on texts that nobody has tuned them on.
"""

from __future__ import annotations

from dataclasses import dataclass

Facts = dict[str, str]


@dataclass(frozen=True)
class Domain:
    """One kind of text. `key` names the slot that its subject is called by."""

    name: str
    key: str
    slots: Facts
    says: tuple[str, ...]
    tells: tuple[str, ...]
    filler: tuple[str, ...]
    held: bool = False


def _domain(name: str, key: str, slots: str, *texts: str, held: bool = False) -> Domain:
    """Read a domain: slots as "name:kind ...", then three texts of a sentence a line: says, tells, filler."""
    kinds = dict(part.split(":") for part in slots.split())
    says, tells, filler = (tuple(line.strip() for line in text.strip().splitlines()) for text in texts)
    return Domain(name, key, kinds, says, tells, filler, held)


DOMAINS = [
    _domain(
        "devices",
        "code",
        "code:code mass:decimal hours:integer price:money cold:negative maker:firm built:city by:person",
        """The {code} is a portable pump made by {maker} in {built}.
        It weighs {mass} kg and runs for {hours} hours on one charge.
        The list price is {price} without tax.
        Do not store it below {cold} °C.
        Its motor was designed by {by}.""",
        """The {code} weighs {mass} kg.
        The weight of the {code} is {mass} kilograms.
        With one charge, the {code} can run for {hours} hours.
        {maker} makes the {code} in {built}.
        The {code} costs {price}.
        The list price of the {code} is {price}, and it weighs {mass} kg.
        The {code} should not be stored below {cold} °C.
        {by} designed the motor of the {code}.
        The motor of the {code} was designed by {by}.
        The {code} is a portable pump made by {maker} in {built}.""",
        """Clean the filter once a month.
        Keep the manual in a dry place.
        Spare parts are listed in the appendix.""",
    ),
    _domain(
        "companies",
        "firm",
        "firm:firm year:year city:city boss:person staff:large share:percent revenue:decimal",
        """{firm} was founded in {year} in {city}.
        The company employs {staff} people.
        {boss} has led it since the merger.
        Revenue rose by {share} to {revenue} million euros.""",
        """{firm} was founded in {year} in {city}.
        Founded in {year}, {firm} is based in {city}.
        {firm} has {staff} employees.
        {firm} employs {staff} people and is led by {boss}.
        {boss} leads {firm}.
        At {firm}, revenue rose by {share} to {revenue} million euros.
        The revenue of {firm} grew {share}.
        {firm} had a revenue of {revenue} million euros.""",
        """Analysts had expected less.
        The market as a whole stood still.
        Shares hardly moved after the news.""",
    ),
    _domain(
        "people",
        "person",
        "person:person born:year city:city field:place prize:caps paper:word died:date",
        """{person} (born {born} in {city}) was a chemist.
        She studied the salts of the {field} valley and wrote {paper} books.
        In later years she received the {prize} medal.
        She died on {died}.""",
        """{person} was born in {born} in {city}.
        {person} studied the salts of the {field} valley.
        {person} wrote {paper} books.
        The chemist {person} died on {died}.
        {person} received the {prize} medal.
        In {born}, {person} was born in {city}.
        The {prize} medal was given to {person}.""",
        """Little is known about the early years.
        Letters from that time are kept in an archive.""",
    ),
    _domain(
        "software",
        "package",
        "package:package version:version day:iso flag:flag default:integer port:integer author:person",
        """`{package}` {version} was released on {day}.
        It listens on port {port}.
        The option `{flag}` defaults to {default}.
        The maintainer of the project is {author}.""",
        """{package} {version} was released on {day}.
        The current version of {package} is {version}.
        By default, {package} listens on port {port}.
        In {package}, `{flag}` is {default} by default.
        The default of {flag} in {package} is {default}.
        {author} maintains {package}.""",
        """See the changelog for more.
        Read the whole page before you upgrade.""",
    ),
    _domain(
        "geraete",
        "code",
        "code:code masse:comma stunden:integer preis:integer firma:firm stadt:city von:person tag:datum",
        """Die {code} ist eine tragbare Pumpe der Firma {firma} aus {stadt}.
        Sie wiegt {masse} kg und läuft mit einer Ladung {stunden} Stunden.
        Der Preis beträgt {preis} Euro.
        Entworfen wurde sie von {von}.
        Seit dem {tag} wird sie verkauft.""",
        """Die {code} wiegt {masse} kg.
        Das Gewicht der {code} beträgt {masse} kg.
        Die {code} läuft {stunden} Stunden mit einer Ladung.
        Die {code} kostet {preis} Euro.
        {von} hat die {code} entworfen.
        Die {code} wurde von {von} entworfen.
        Die {code} wird seit dem {tag} verkauft.
        Die Firma {firma} aus {stadt} baut die {code}.""",
        """Reinigen Sie den Filter einmal im Monat.
        Ersatzteile stehen im Anhang.""",
    ),
    _domain(
        "contracts",
        "firm",
        "firm:firm signed:date term:word notice:integer fee:money court:city signer:person late:percent",
        """The agreement with {firm} was signed on {signed} by {signer}.
        It is concluded for a term of {term} years.
        Either party may terminate it with {notice} days' notice.
        The yearly fee amounts to {fee}.
        Late payments bear interest of {late} per year.
        The place of jurisdiction is {court}.""",
        """The agreement with {firm} was signed on {signed}.
        {signer} signed the agreement with {firm}.
        The {firm} agreement has a term of {term} years.
        The notice period with {firm} is {notice} days.
        Either party may terminate the {firm} agreement with {notice} days' notice.
        {firm} is paid a yearly fee of {fee}.
        For the agreement with {firm}, the place of jurisdiction is {court}.
        Under the {firm} agreement, late payments bear interest of {late} per year.""",
        """Changes must be made in writing.
        All annexes form part of it.""",
        held=True,
    ),
    _domain(
        "rivers",
        "place",
        "place:place length:integer depth:decimal city:city year:year people:large explorer:person",
        """The {place} is a river that rises near {city}.
        With a length of {length} km it crosses the whole province, and it is up to {depth} metres deep.
        The first bridge over it was completed in {year}.
        About {people} people live along its banks.
        Its source was described by the explorer {explorer}.""",
        """The {place} is {length} km long.
        The {place} rises near {city}.
        The river {place} has a length of {length} km and is up to {depth} metres deep.
        The first bridge over the {place} was completed in {year}.
        Roughly {people} people live on the banks of the {place}.
        {explorer} described the source of the {place}.
        The source of the {place} was described by {explorer}, and it rises near {city}.""",
        """In summer the water is low.
        Fishing is allowed with a permit.""",
        held=True,
    ),
    _domain(
        "medicines",
        "drug",
        "drug:drug dose:integer times:word half:decimal age:integer rate:percent firm:firm approved:year",
        """{drug} is taken in a dose of {dose} mg, {times} times a day.
        Its half-life is {half} hours.
        It must not be given to children under {age} years of age.
        Headache occurred in {rate} of patients.
        It was approved in {approved} and is marketed by {firm}.""",
        """The usual dose of {drug} is {dose} mg {times} times a day.
        {drug} is taken in a dose of {dose} mg, {times} times a day.
        {drug} has a half-life of {half} hours.
        Children under {age} years of age must not be given {drug}.
        {rate} of patients on {drug} had headache.
        {drug} was approved in {approved}.
        {firm} markets {drug}.
        {drug}, which is marketed by {firm}, was approved in {approved}.""",
        """Ask your doctor if you feel unwell.
        Store the package out of the reach of children.""",
    ),
    _domain(
        "trains",
        "code",
        "code:code start:city end:city leaves:time seats:integer price:money driver:person unit:unit",
        """Train {code} leaves {start} at {leaves} and goes to {end}.
        It has {seats} seats.
        A ticket costs {price}.
        The driver is {driver}.""",
        """Train {code} leaves {start} at {leaves}.
        Train {code} goes to {end}.
        The {code} goes from {start} to {end}.
        Train {code} has {seats} seats.
        At {leaves}, train {code} leaves {start}.
        A ticket for the {code} costs {price}.
        {driver} is the driver of train {code}.""",
        """Breakfast is served on board.
        Bicycles need a reservation.""",
        held=True,
    ),
    _domain(
        "recipes",
        "person",
        "person:person amount:integer unit:unit rest:word wait:integer span:unit town:city first:date",
        """{person} opened a workshop in {town} on {first}.
        Every batch there takes {amount} {unit} of raw material.
        The mixture then rests for {wait} {span}.
        There are {rest} apprentices in the house.""",
        """{person} opened a workshop in {town} on {first}.
        The workshop of {person} uses {amount} {unit} of raw material for every batch.
        In the workshop of {person} the mixture rests for {wait} {span}.
        {person} has {rest} apprentices.
        On {first}, {person} opened a workshop in {town}.""",
        """Visitors are welcome on weekdays.
        The tools are washed every evening.""",
        held=True,
    ),
    _domain(
        "usines",
        "firm",
        "firm:firm ville:city annee:year gens:integer chef:person jour:jour",
        """La société {firm} a été fondée en {annee} à {ville}.
        Elle emploie {gens} personnes dans son usine.
        Son directeur est {chef}.
        La nouvelle usine a ouvert le {jour}.""",
        """{firm} a été fondée en {annee} à {ville}.
        En {annee}, la société {firm} a été fondée à {ville}.
        {firm} emploie {gens} personnes.
        Le directeur de {firm} est {chef}.
        La nouvelle usine de {firm} a ouvert le {jour}.""",
        """Le marché reste calme.
        Les visites sont gratuites.""",
        held=True,
    ),
    _domain(
        "vertraege",
        "firm",
        "firm:firm tag:datum jahre:word frist:integer betrag:integer ort:city wer:person",
        """Der Vertrag mit der {firm} GmbH wurde am {tag} von {wer} unterschrieben.
        Die Frist für eine Kündigung beträgt {frist} Tage.
        Im Jahr sind {betrag} Euro zu zahlen.
        Gerichtsstand ist {ort}.""",
        """Der Vertrag mit der {firm} GmbH wurde am {tag} unterschrieben.
        {wer} hat den Vertrag mit der {firm} GmbH unterschrieben.
        Beim Vertrag mit der {firm} GmbH beträgt die Frist für eine Kündigung {frist} Tage.
        Für die {firm} GmbH sind im Jahr {betrag} Euro zu zahlen.
        Gerichtsstand für die {firm} GmbH ist {ort}.""",
        """Änderungen müssen schriftlich erfolgen.
        Alle Anlagen sind ein Teil davon.""",
    ),
]
