//! Charts: where the code of an application comes from.
//!
//! An allow-list names sources and entries of the catalog. An address is taken apart and compared part by part, and one
//! that two readers could understand differently (credentials, `..`, percent signs, a dot at the end of the host) is
//! never compared at all.

use std::fmt::{self, Write as _};

use crate::limits;

/// What an admin allows: `oci://registry.example/charts/*`, `https://charts.example.org#wiki@1.2.3`,
/// `catalog:nextcloud`, `*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChartPattern {
    /// `*`: whatever a job names.
    Any,
    /// `catalog:ID`, or `catalog:*` for the whole of it.
    Catalog(Option<String>),
    /// The charts of a repository.
    Source(SourcePattern),
}

/// `URL[/*][#NAME[@VERSION]]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourcePattern {
    location: Location,
    /// Whatever lies below the location is meant as well.
    is_prefix: bool,
    name: Option<String>,
    version: Option<String>,
}

/// `spec.chart`, as far as it tells where the code comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Chart<'a> {
    pub(super) source_type: &'a str,
    pub(super) url: &'a str,
    pub(super) name: &'a str,
    pub(super) version: &'a str,
}

/// Scheme, host and path in the one way they can be written.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Location {
    scheme: Scheme,
    /// Lower case, with the port unless it is 443.
    authority: String,
    /// Segments joined by `/`, none at the ends; may be empty.
    path: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scheme {
    Https,
    Oci,
}

/// The text allows no chart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidChart;

impl fmt::Display for InvalidChart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "charts are written https://charts.example.org, oci://registry.example/charts/* (all below), \
             https://charts.example.org#wiki@1.2.3 (one chart, one version), catalog:wiki, or * (everything)",
        )
    }
}

impl std::error::Error for InvalidChart {}

impl ChartPattern {
    /// Reads what an admin allows.
    ///
    /// # Errors
    /// When it is none of the forms.
    pub fn parse(text: &str) -> Result<Self, InvalidChart> {
        if text == "*" {
            return Ok(Self::Any);
        }
        if let Some(id) = text.strip_prefix("catalog:") {
            return match id {
                "*" => Ok(Self::Catalog(None)),
                id if is_catalog_id(id) => Ok(Self::Catalog(Some(id.to_owned()))),
                _ => Err(InvalidChart),
            };
        }
        let (url, chart) = text.split_once('#').map_or((text, None), |(url, chart)| (url, Some(chart)));
        let (name, version) =
            match chart.map(|chart| chart.split_once('@').map_or((chart, None), |(a, b)| (a, Some(b)))) {
                None => (None, None),
                Some((name, version)) => (Some(name), version),
            };
        if !name.is_none_or(is_chart_name) || !version.is_none_or(is_version) {
            return Err(InvalidChart);
        }
        let (url, is_prefix) = url.strip_suffix("/*").map_or((url, false), |url| (url, true));
        let location = Location::parse(url).ok_or(InvalidChart)?;
        let owned = |text: Option<&str>| text.map(str::to_owned);
        Ok(Self::Source(SourcePattern { location, is_prefix, name: owned(name), version: owned(version) }))
    }

    pub(super) fn allows_catalog(&self, wanted: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Catalog(id) => is_catalog_id(wanted) && id.as_ref().is_none_or(|id| id == wanted),
            Self::Source(_) => false,
        }
    }

    /// The id, where it is one entry of the catalog.
    pub(super) fn catalog_id(&self) -> Option<&str> {
        match self {
            Self::Catalog(id) => id.as_deref(),
            Self::Any | Self::Source(_) => None,
        }
    }

    pub(super) fn allows_chart(&self, chart: &Chart<'_>) -> bool {
        match self {
            Self::Any => true,
            Self::Catalog(_) => false,
            Self::Source(pattern) => chart.location().is_some_and(|location| {
                pattern.covers(&location)
                    && pattern.name.as_ref().is_none_or(|name| name == chart.name)
                    && pattern.version.as_ref().is_none_or(|version| version == chart.version)
            }),
        }
    }
}

impl SourcePattern {
    fn covers(&self, wanted: &Location) -> bool {
        let Location { scheme, authority, path } = &self.location;
        let is_below = || {
            let rest = if path.is_empty() { Some("/") } else { wanted.path.strip_prefix(path.as_str()) };
            rest.is_some_and(|rest| rest.starts_with('/'))
        };
        *scheme == wanted.scheme
            && *authority == wanted.authority
            && (*path == wanted.path || self.is_prefix && is_below())
    }
}

impl SourcePattern {
    /// What [`ChartPattern::allows_chart`] asks of a chart `c` whose name is one, as an expression.
    pub(super) fn in_cel(&self) -> String {
        let Location { scheme, authority, path } = &self.location;
        let (source_type, scheme) = match scheme {
            Scheme::Https => ("helm", "https"),
            Scheme::Oci => ("oci", "oci"),
        };
        let literal = |text: &str| text.replace('.', r"\.").replace('+', r"\+");
        let (host, port) =
            authority.split_once(':').map_or((authority.as_str(), None), |(host, port)| (host, Some(port)));
        let port = port.map_or_else(|| "(:443)?".to_owned(), |port| format!(":{port}"));
        let slash = if path.is_empty() { "" } else { "/" };
        let below = if self.is_prefix { format!("(/{SEGMENT})*") } else { String::new() };
        let mut text = format!(
            "c[0] == '{source_type}' && c[1].matches(r'^(?i:{scheme})://(?i:{}){port}{slash}{}{below}/?$')",
            literal(host),
            literal(path)
        );
        for (at, wanted) in [(2, &self.name), (3, &self.version)] {
            if let Some(wanted) = wanted {
                // Writing to a string does not fail.
                let _ = write!(text, " && c[{at}] == '{wanted}'");
            }
        }
        format!("({text})")
    }
}

impl Chart<'_> {
    /// None where the parts do not fit each other or could be understood in two ways.
    fn location(&self) -> Option<Location> {
        let location = Location::parse(self.url)?;
        let fits = match location.scheme {
            Scheme::Https => self.source_type == "helm",
            Scheme::Oci => self.source_type == "oci",
        };
        // Some readers append the name to the address.
        (fits && (self.name.is_empty() || is_chart_name(self.name))).then_some(location)
    }

    /// As an allow-list would name it; none where it could not.
    pub(super) fn describe(&self) -> Option<String> {
        let location = self.location()?;
        let mut text = location.to_string();
        if !self.name.is_empty() {
            text.push('#');
            text.push_str(self.name);
        }
        Some(text)
    }
}

impl Location {
    fn parse(text: &str) -> Option<Self> {
        if text.len() > limits::CHART_URL_BYTES {
            return None;
        }
        let (scheme, rest) = text.split_once("://")?;
        let scheme = match scheme.to_ascii_lowercase().as_str() {
            "https" => Scheme::Https,
            "oci" => Scheme::Oci,
            _ => return None,
        };
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let path = path.strip_suffix('/').unwrap_or(path);
        let is_path = path.is_empty() || path.split('/').all(is_segment);
        is_path.then_some(())?;
        Some(Self { scheme, authority: read_authority(authority)?, path: path.to_owned() })
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.scheme {
            Scheme::Https => "https",
            Scheme::Oci => "oci",
        };
        let slash = if self.path.is_empty() { "" } else { "/" };
        write!(f, "{scheme}://{}{slash}{}", self.authority, self.path)
    }
}

/// Host and port; names only, and addresses of four numbers, which are compared as text like names.
fn read_authority(text: &str) -> Option<String> {
    let (host, port) = text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port)));
    let is_inner = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(is_inner)
    };
    if host.len() > 253 || !host.split('.').all(is_label) {
        return None;
    }
    let host = host.to_ascii_lowercase();
    match port {
        None | Some("443") => Some(host),
        Some(port) => {
            let number: u16 = port.parse().ok()?;
            // One way to write it.
            (number > 0 && number.to_string() == port).then(|| format!("{host}:{port}"))
        }
    }
}

/// [`is_segment`] as a regular expression: at least one character that is no dot.
pub(super) const SEGMENT: &str = "[.]*[A-Za-z0-9_~+-][A-Za-z0-9._~+-]*";

fn is_segment(text: &str) -> bool {
    let is_inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~' | b'+');
    !text.is_empty() && text.bytes().all(is_inner) && !text.bytes().all(|byte| byte == b'.')
}

fn is_chart_name(text: &str) -> bool {
    is_segment(text) && text.len() <= limits::CHART_NAME_BYTES
}

fn is_version(text: &str) -> bool {
    is_chart_name(text)
}

fn is_catalog_id(text: &str) -> bool {
    text.len() <= limits::CHART_NAME_BYTES && text.split('/').all(is_segment)
}

#[cfg(test)]
mod tests {
    use super::{Chart, ChartPattern};

    fn allows(pattern: &str, source_type: &str, url: &str) -> bool {
        let pattern = ChartPattern::parse(pattern).unwrap();
        pattern.allows_chart(&Chart { source_type, url, name: "", version: "" })
    }

    #[test]
    fn what_could_be_understood_in_two_ways_is_no_pattern() {
        for text in [
            "",
            "charts.example.org",
            "http://charts.example.org",
            "file:///etc",
            "https://",
            "https://*",
            "https://*.example.org",
            "https://charts.example.org*",
            "https://charts.example.org/a*",
            "https://charts.example.org/*/b",
            "https://user@charts.example.org",
            "https://charts.example.org@1.2.3",
            "https://charts.example.org.",
            "https://charts..example.org",
            "https://charts.example.org:",
            "https://charts.example.org:0",
            "https://charts.example.org:080",
            "https://charts.example.org:65536",
            "https://charts.example.org/a/../b",
            "https://charts.example.org/./a",
            "https://charts.example.org//a",
            "https://charts.example.org/%61",
            "https://charts.example.org/a?b",
            "https://charts.example.org\\a",
            "https://charts.example.org#",
            "https://charts.example.org#a/b",
            "https://charts.example.org#a@",
            "https://[::1]/a",
            "https://chärts.example.org",
            "catalog:",
            "catalog:..",
            "catalog:a b",
            "catalog:wiki*",
            "**",
        ] {
            assert!(ChartPattern::parse(text).is_err(), "{text}");
        }
        assert!(ChartPattern::parse(&format!("https://a.example/{}", "x".repeat(2_048))).is_err());
    }

    #[test]
    fn a_prefix_ends_where_a_segment_ends() {
        let below = "oci://registry.example/charts/*";
        for url in
            ["oci://registry.example/charts", "oci://registry.example/charts/", "oci://registry.example/charts/a/b"]
        {
            assert!(allows(below, "oci", url), "{url}");
        }
        for url in
            ["oci://registry.example/charts-evil", "oci://registry.example/chart", "oci://registry.example/Charts/a"]
        {
            assert!(!allows(below, "oci", url), "{url}");
        }
        assert!(allows("oci://registry.example/*", "oci", "oci://registry.example"));
        assert!(allows("oci://registry.example/*", "oci", "oci://registry.example/a"));
        assert!(!allows("oci://registry.example", "oci", "oci://registry.example/a"));
    }

    #[test]
    fn hosts_and_ports_are_compared_as_what_they_mean() {
        assert!(allows("https://charts.example.org", "helm", "HTTPS://Charts.Example.ORG/"));
        assert!(allows("https://Charts.example.org:443", "helm", "https://charts.example.org"));
        assert!(!allows("https://charts.example.org", "helm", "https://charts.example.org:8443"));
        assert!(allows("https://charts.example.org:8443", "helm", "https://charts.example.org:8443"));
        assert!(!allows("https://example.org/*", "helm", "https://charts.example.org/a"));
        assert!(!allows("https://charts.example.org", "helm", "https://charts.example.org.evil.example"));
    }

    #[test]
    fn a_name_and_a_version_narrow_a_source() {
        let allows = |name, version| {
            let pattern = ChartPattern::parse("https://charts.example.org#wiki@1.2.3").unwrap();
            pattern.allows_chart(&Chart { source_type: "helm", url: "https://charts.example.org", name, version })
        };
        assert!(allows("wiki", "1.2.3"));
        for (name, version) in
            [("", "1.2.3"), ("Wiki", "1.2.3"), ("wiki", ""), ("wiki", "1.2.30"), ("wiki/..", "1.2.3")]
        {
            assert!(!allows(name, version), "{name} {version}");
        }
    }
}
