"""The twelve hazard categories of AILuminate v1.0, by which harm is counted in reports.

Source: Ghosh et al., "AILuminate: Introducing v1.0 of the AI Risk and Reliability Benchmark from MLCommons"
(arXiv 2503.05731), section on the hazard taxonomy. The codes are that benchmark's own abbreviations; the descriptions
are ours.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

_LABEL, _WORDS = 40, 3


class Hazard(StrEnum):
    """A hazard category; the value is what data files and reports hold."""

    VIOLENT_CRIMES = "violent-crimes"
    NONVIOLENT_CRIMES = "nonviolent-crimes"
    SEX_RELATED_CRIMES = "sex-related-crimes"
    CHILD_SEXUAL_EXPLOITATION = "child-sexual-exploitation"
    CBRNE = "cbrne"
    SUICIDE_SELF_HARM = "suicide-self-harm"
    HATE = "hate"
    PRIVACY = "privacy"
    INTELLECTUAL_PROPERTY = "intellectual-property"
    DEFAMATION = "defamation"
    SPECIALIZED_ADVICE = "specialized-advice"
    SEXUAL_CONTENT = "sexual-content"
    UNMAPPED = "unmapped"
    """Not assigned to a category: the honest label for data that came without one."""

    @property
    def code(self) -> str:
        """AILuminate's short code, for example ``vcr``."""
        return _RECORDS[self].code

    @property
    def label(self) -> str:
        """A name for people, for example ``Violent crimes``."""
        return _RECORDS[self].label

    @property
    def description(self) -> str:
        """What falls under the category, in one line."""
        return _RECORDS[self].description

    @classmethod
    def mapped(cls) -> tuple[Hazard, ...]:
        """The twelve categories in AILuminate's order, without ``UNMAPPED``."""
        return tuple(hazard for hazard in cls if hazard is not cls.UNMAPPED)


class _Record(NamedTuple):
    code: str
    label: str
    description: str


_RECORDS = {
    Hazard.VIOLENT_CRIMES: _Record("vcr", "Violent crimes", "Killing, assault, kidnapping, terrorism, animal cruelty."),
    Hazard.NONVIOLENT_CRIMES: _Record(
        "ncr", "Nonviolent crimes", "Theft, fraud, hacking, drug and weapon offences, property damage, trafficking."
    ),
    Hazard.SEX_RELATED_CRIMES: _Record(
        "src", "Sex-related crimes", "Sexual assault, sexual harassment, coercion, trafficking for sex."
    ),
    Hazard.CHILD_SEXUAL_EXPLOITATION: _Record(
        "cse", "Child sexual exploitation", "Anything that enables, excuses or describes the sexual abuse of minors."
    ),
    Hazard.CBRNE: _Record(
        "iwp", "Indiscriminate weapons (CBRNE)", "Chemical, biological, radiological, nuclear and explosive weapons."
    ),
    Hazard.SUICIDE_SELF_HARM: _Record(
        "ssh", "Suicide and self-harm", "Encouraging or enabling suicide, self-injury or disordered eating."
    ),
    Hazard.HATE: _Record(
        "hte", "Hate", "Demeaning or dehumanising people for a protected characteristic, or calling for exclusion."
    ),
    Hazard.PRIVACY: _Record("prv", "Privacy", "Exposing or inferring personal information that people keep private."),
    Hazard.INTELLECTUAL_PROPERTY: _Record(
        "ipv", "Intellectual property", "Copyright, trademark, patent and trade-secret infringement."
    ),
    Hazard.DEFAMATION: _Record("dfm", "Defamation", "Verifiably false statements that harm a person's reputation."),
    Hazard.SPECIALIZED_ADVICE: _Record(
        "spc",
        "Specialized advice",
        "Medical, legal, financial or electoral advice given as if a professional's, or that calls the dangerous safe.",
    ),
    Hazard.SEXUAL_CONTENT: _Record("sxc", "Sexual content", "Pornographic or erotic material."),
    Hazard.UNMAPPED: _Record("unm", "Unmapped", "No category was assigned."),
}


def shown(value: object) -> str:
    """A label for a message: quoted if it is short, else by its type, for the wrong field may hold a passage."""
    quoted = repr(value)
    return quoted if len(quoted) <= _LABEL and len(quoted.split()) <= _WORDS else f"a longer {type(value).__name__}"
