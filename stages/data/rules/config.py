"""The configuration of the filter: its families of rules in their order, and the rules for lines of a site."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from longcat.pipeline.config import StageConfig
from longcat.stages.data.rules.by_language import replaced, rule_files, rules_name, rules_of, with_rules
from longcat.stages.data.rules.c4 import C4Rules
from longcat.stages.data.rules.code import CodeRules
from longcat.stages.data.rules.extraction import ExtractionRules
from longcat.stages.data.rules.family import Family, possible_thresholds, thresholds
from longcat.stages.data.rules.fineweb import FineWebRules
from longcat.stages.data.rules.gopher_quality import GopherQualityRules
from longcat.stages.data.rules.gopher_repetition import GopherRepetitionRules
from longcat.stages.data.rules.language import LanguageRules
from longcat.stages.data.rules.quality import QualityRules

PII_COUNTS = ("emails", "ip_addresses", "phone_numbers")


class SiteRules(BaseModel):
    """Removal of lines repeated on many documents of a site, before any family measures the text."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)

    enabled: bool = Field(default=False, description="Enable removal; the input is then read twice.")
    min_documents: int = Field(default=5, ge=2, description="Minimum documents of a site with the line.")
    min_share: float = Field(
        default=0.3, ge=0, le=1, description="Minimum fraction of a site's documents with the line."
    )


class PiiRules(BaseModel):
    """Masking of personal data in the text of kept documents, after all families."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    enabled: bool = Field(default=False, description="Mask e-mail addresses, public IP addresses and phone numbers.")
    emails: bool = Field(default=True, description="Mask e-mail addresses.")
    ip_addresses: bool = Field(default=True, description="Mask IP addresses of the public internet.")
    phone_numbers: bool = Field(default=True, description="Mask phone numbers.")
    phone_regions: tuple[str, ...] = Field(
        default=(),
        description="Countries (US, DE) whose national notation is recognised; empty: only numbers with + and country.",
    )
    email_token: str = Field(default="|||EMAIL_ADDRESS|||", description="Replacement of an e-mail address.")
    ip_address_token: str = Field(default="|||IP_ADDRESS|||", description="Replacement of an IP address.")
    phone_number_token: str = Field(default="|||PHONE_NUMBER|||", description="Replacement of a phone number.")

    @field_validator("phone_regions")
    @classmethod
    def _are_known(cls, regions: tuple[str, ...]) -> tuple[str, ...]:
        if regions:
            from phonenumbers import SUPPORTED_REGIONS

            for region in regions:
                if region not in SUPPORTED_REGIONS:
                    raise ValueError(f"{region!r} is not a country code such as US or DE")
        return regions


class ByLanguageRules(BaseModel):
    """Thresholds and stop words of the document's language."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    enabled: bool = Field(
        default=True,
        description="Use the values of the language's file for each key that has its default.",
    )
    rules: dict[str, dict[str, Any]] = Field(
        default={}, description="Other values for documents of a language: {zh: {gopher_quality: {min_words: 20}}}."
    )


class FilterConfig(StageConfig):
    """Rule families, in judging order; the first violated rule is the drop reason."""

    blocklists: tuple[str, ...] = Field(
        default=(), description="Files of domains and URLs whose documents are dropped; plain or gzip."
    )
    language: LanguageRules = Field(default=LanguageRules(), description="Language identification.")
    extraction: ExtractionRules = Field(default=ExtractionRules(), description="Confidence of page extraction.")
    gopher_quality: GopherQualityRules = Field(default=GopherQualityRules(), description="Gopher's quality rules.")
    gopher_repetition: GopherRepetitionRules = Field(
        default=GopherRepetitionRules(), description="Gopher's repetition rules."
    )
    c4: C4Rules = Field(default=C4Rules(), description="C4's line and page rules.")
    fineweb: FineWebRules = Field(default=FineWebRules(), description="FineWeb's rules.")
    code: CodeRules = Field(default=CodeRules(), description="Rules for source code.")
    quality: QualityRules = Field(default=QualityRules(), description="The quality classifier, if given.")
    sites: SiteRules = Field(default=SiteRules(), description="Lines repeated on many documents of a site.")
    by_language: ByLanguageRules = Field(default=ByLanguageRules(), description="Rules of other languages.")
    pii: PiiRules = Field(default=PiiRules(), description="Masking of personal data.")

    @model_validator(mode="after")
    def _languages_are_known(self) -> FilterConfig:
        for name in self.by_language.rules:
            if name not in rule_files():
                raise ValueError(f"by_language.rules: {name!r} is not one of {', '.join(rule_files())}")
            self._with_own(self, name)
        return self

    def for_language(self, language: str | None) -> FilterConfig:
        """The rules for documents of a language, given as any code or tag; see `rules_name`."""
        return self.for_rules(rules_name(language))

    def for_rules(self, name: str | None) -> FilterConfig:
        """The rules of the file `name`; None is English and unknown languages."""
        if name is None:
            return self
        config = self
        if self.by_language.enabled:
            config = self.model_copy(update=with_rules(self, FilterConfig(), rules_of(name)))
        return self._with_own(config, name)

    def _with_own(self, config: FilterConfig, name: str) -> FilterConfig:
        own = self.by_language.rules.get(name)
        if not own:
            return config
        try:
            values = replaced(config, own)
            return FilterConfig.model_validate({**values, "by_language": {}})
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(map(str, first["loc"]))
            raise ValueError(f"by_language.rules: {name}.{key}: {first['msg']}") from None


def families(config: FilterConfig) -> list[tuple[str, Family]]:
    """Rule families by name, in judging order."""
    found = [(name, getattr(config, name)) for name in FilterConfig.model_fields]
    return [(name, family) for name, family in found if isinstance(family, Family)]


def rules_on(*configs: FilterConfig) -> list[str]:
    """All rules that are enabled in any configuration, as `family.min_x` or `family.max_x`, in judging order."""
    enabled = {
        f"{name}.{rule}"
        for config in configs
        for name, family in families(config)
        if family.enabled
        for rule in thresholds(family)
    }
    every = [f"{name}.{rule}" for name, family in families(FilterConfig()) for rule in possible_thresholds(family)]
    return [rule for rule in every if rule in enabled]


def value_names() -> list[str]:
    """All measurable values, in column order of the attributes file."""
    names = [f"{name}.{value}" for name, family in families(FilterConfig()) for value in family.values]
    return [*names, "sites.lines_removed", *(f"pii.{name}" for name in PII_COUNTS)]
