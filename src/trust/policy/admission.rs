//! The policy as objects of an API server: `ValidatingAdmissionPolicy` with bindings, for servers from 1.30.
//!
//! The expressions are plain CEL, without the extensions of Kubernetes, so that any conformant library can be held to the
//! table of cases. What is written here is what the policy decides; the rest is the text of the two templates.
//!
//! A server evaluates these expressions on the object as it came, without its schema, so that open values can be walked. CEL
//! has no recursion: the walk is written out, one level within the other.

use super::chart::{ChartPattern, SEGMENT};
use super::inline::SECRET_KEYS;
use super::namespace::Namespaces;
use super::never::OWN_NAMES;
use super::{OWN_NAMESPACE, OperationType, Policy, Rules};
use crate::limits;
use crate::protocol::{APPLICATION_INSTANCE, GroupKind, OPERATION};
use crate::texts;

/// The account of the agent, as the API server names it. What it writes was checked before.
pub const OWN_ACCOUNT: &str = "system:serviceaccount:vworkspace-system:pullet";

/// An update of more than metadata and status, which are for controllers to write.
const CHANGED: &str = "request.operation != 'UPDATE' || object.exists(k, !(k in ['metadata', 'status']) && \
    (!(k in oldObject) || object[k] != oldObject[k])) || \
    oldObject.exists(k, !(k in ['metadata', 'status']) && !(k in object))";

/// The namespace is one that the control plane manages.
const MANAGED: &str = "has(namespaceObject.metadata.labels) && 'managed-by' in namespaceObject.metadata.labels && \
    namespaceObject.metadata.labels['managed-by'] == 'vworkspace'";

/// One level of the walk through inline values. `p` is a pair: what the key says of the value (0 nothing, 1 secret, 2 the
/// name of a Secret), and the value. Lists hand on what their key says; the value of an item `{name: <a secret key>, value:
/// …}` is secret. A 3 says that something was found; it is handed down to the bottom, so that a level costs no more than one
/// pair of brackets: parsers count them. The cheap tests come first: each step is counted against a budget.
const LEVEL: &str = r"(p[0] == 3 || type(p[1]) == string && !(@TEXT@) ? [[dyn(3), dyn(null)]] :
type(p[1]) == map ? p[1].map(k, [dyn(k.contains('-----') && k.matches(r'@PEM@') ? 3 :
k.matches(r'(?i)t[-_\s]*$') && k.matches(r'@NAME@') ? 2 :
([k] + (k.matches(r'(?i)^value$') ? p[1].filter(n, n.matches(r'(?i)^name$') && type(p[1][n]) == string)
.map(n, string(p[1][n])) : [])).exists(w, w.matches(r'(?i)[dtyn][-_\s]*$') && w.matches(r'@SECRET@') &&
!w.matches(r'@NAME@')) ? 1 : 0), p[1][k]]) :
type(p[1]) == list ? p[1].map(x, [p[0], x]) : []).all(p, @BELOW@)";

/// What lies at the bottom is no list and no map, or an empty one.
const BOTTOM: &str =
    "p[0] != 3 && (type(p[1]) != string || @TEXT@) && (!(type(p[1]) in [map, list]) || size(p[1]) == 0)";

/// A text, by what its key says of it.
const TEXT: &str = r"!(p[1].contains('-----') && p[1].matches(r'@PEM@')) && (p[0] == 1 ?
p[1].matches(r'(?i)^(<set via external-?secret>)?$') : p[0] != 2 || !p[1].matches(r'^[A-Za-z0-9+/=_-]{40,}$') ||
p[1].matches(r'^[a-z0-9.-]*$'))";

/// Levels of values that are searched: the deepest field of a pod is nine levels down, and charts put it two or three deep.
const LEVELS: usize = 12;

impl Policy {
    /// The objects as YAML, with comments: what the policy permits, held against whoever writes. Further kinds are judged
    /// where an object carries the label of the control plane.
    #[must_use]
    pub fn admission(&self) -> String {
        let own = [APPLICATION_INSTANCE, OPERATION];
        let further: Vec<&GroupKind> =
            self.kinds.iter().filter(|kind| !own.iter().any(|(version, name)| kind.matches(version, name))).collect();
        let mut text = texts::admission();
        if !further.is_empty() {
            text.push_str(&texts::admission_of_kinds());
        }
        let is_managed = self.rules.iter().any(|rules| rules.namespaces == Namespaces::Managed);
        let mut groups: Vec<&str> = further.iter().map(|kind| kind.group.as_str()).collect();
        groups.sort_unstable();
        groups.dedup();
        let kinds: Vec<String> = further.iter().map(ToString::to_string).collect();
        for (mark, insertion) in [
            ("@ACCOUNT@", OWN_ACCOUNT),
            ("@CHANGED@", CHANGED),
            ("@NAMESPACE@", &self.namespaces_in_cel()),
            ("@LABEL@", if is_managed { MANAGED } else { "true" }),
            ("@ANYWHERE@", if is_managed { "false" } else { "true" }),
            ("@CHART@", &self.all(Rules::charts_in_cel)),
            ("@CATALOG@", &self.all(Rules::catalog_in_cel)),
            ("@OPERATIONS@", &self.operations_in_cel()),
            ("@INLINE@", &inline()),
            ("@GROUPS@", &quoted(&groups, '"')),
            ("@KINDS@", &quoted(&kinds, '\'')),
            ("@OWN@", &format!("^({})(-|$)", OWN_NAMES.join("|"))),
        ] {
            text = text.replace(mark, insertion);
        }
        text
    }

    /// What each party says, all of it.
    fn all(&self, part: fn(&Rules) -> Option<String>) -> String {
        let parts: Vec<String> = self.rules.iter().filter_map(part).map(|part| format!("({part})")).collect();
        if parts.is_empty() { "true".to_owned() } else { parts.join(" && ") }
    }

    /// Of the namespace `n`.
    fn namespaces_in_cel(&self) -> String {
        format!("n != '{}' && {}", OWN_NAMESPACE, self.all(|rules| rules.namespaces.in_cel()))
    }

    fn operations_in_cel(&self) -> String {
        let lists = || self.rules.iter().filter_map(|rules| rules.operations.as_ref());
        let allowed = OperationType::ALL.into_iter().filter(|known| lists().all(|list| list.contains(known)));
        format!("[{}]", quoted(&allowed.map(OperationType::name).collect::<Vec<_>>(), '\''))
    }
}

impl Rules {
    /// Of the chart `c`, a list of source type, address, name and version.
    fn charts_in_cel(&self) -> Option<String> {
        let charts = self.charts.as_ref()?;
        if charts.contains(&ChartPattern::Any) {
            return None;
        }
        let sources = charts.iter().filter_map(|pattern| match pattern {
            ChartPattern::Source(source) => Some(source.in_cel()),
            ChartPattern::Any | ChartPattern::Catalog(_) => None,
        });
        let sources: Vec<String> = sources.collect();
        if sources.is_empty() {
            return Some("false".to_owned());
        }
        // Letters that only look like those of ASCII, or become them without their case, are no part of an address.
        Some(format!(
            "size(c[1]) <= {} && c[1].matches(r'^[!-~]*$') && (c[2] == '' || size(c[2]) <= {} && \
             c[2].matches(r'^{SEGMENT}$')) && ({})",
            limits::CHART_URL_BYTES,
            limits::CHART_NAME_BYTES,
            sources.join(" || ")
        ))
    }

    /// Of the entry `c` of the catalog.
    fn catalog_in_cel(&self) -> Option<String> {
        let charts = self.charts.as_ref()?;
        if charts.contains(&ChartPattern::Any) {
            return None;
        }
        let is_any = charts.contains(&ChartPattern::Catalog(None));
        let ids: Vec<&str> = charts.iter().filter_map(ChartPattern::catalog_id).collect();
        Some(match (is_any, ids.as_slice()) {
            (true, _) => format!("size(c) <= {} && c.matches(r'^{SEGMENT}(/{SEGMENT})*$')", limits::CHART_NAME_BYTES),
            (false, []) => "false".to_owned(),
            (false, ids) => format!("c in [{}]", quoted(ids, '\'')),
        })
    }
}

/// The walk through the values.
fn inline() -> String {
    let mut walk = BOTTOM.to_owned();
    for _ in 1..LEVELS {
        walk = LEVEL.replace("@BELOW@", &walk);
    }
    let between = limits::PEM_LABEL_BYTES.saturating_sub("PRIVATE KEY".len());
    let whole: Vec<String> = SECRET_KEYS.iter().map(|key| spaced(key)).collect();
    let (password, secret, whole) = (spaced("password"), spaced("secret"), whole.join("|"));
    let (existing, pull) = (spaced("existing"), spaced("pull"));
    walk.replace("@TEXT@", TEXT)
        .replace("@PEM@", &format!("(?is)-----BEGIN .{{0,{between}}}PRIVATE KEY"))
        .replace("@SECRET@", &format!(r"(?is)({password}|{secret}|^[-_\s]*({whole}))[-_\s]*$"))
        .replace("@NAME@", &format!(r"(?is)(^[-_\s]*{existing}.*|{pull}[-_]*){secret}[-_\s]*$"))
        .replace('\n', " ")
}

/// A word of a key, with dashes and underscores wherever people put them.
fn spaced(word: &str) -> String {
    let letters: Vec<String> = word.chars().map(String::from).collect();
    letters.join("[-_]*")
}

/// Names in a list. None of them has a quote or a backslash in it.
pub(super) fn quoted<T: AsRef<str>>(names: &[T], quote: char) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("{quote}{}{quote}", name.as_ref())).collect();
    quoted.join(", ")
}

#[cfg(test)]
mod tests {
    use super::{LEVELS, inline};
    use crate::trust::policy::{ChartPattern, NamespacePattern, Policy, Rules};

    #[test]
    fn every_mark_is_filled_and_nothing_needs_an_escape() {
        let mut rules = Rules::of_owner(
            vec![crate::protocol::GroupKind::parse("/ConfigMap").unwrap()],
            vec![NamespacePattern::parse("shop").unwrap(), NamespacePattern::parse("team-*").unwrap()],
        );
        let charts = ["catalog:wiki", "https://charts.example.org:8443/a+b/*#wiki@1.2.3"];
        rules.charts = Some(charts.iter().map(|text| ChartPattern::parse(text).unwrap()).collect());
        let text = Policy::from(rules).admission();
        for line in text.lines() {
            assert!(
                !line
                    .split('@')
                    .skip(1)
                    .step_by(2)
                    .any(|mark| mark.len() > 2 && mark.bytes().all(|byte| byte.is_ascii_uppercase())),
                "{line}"
            );
        }
        assert!(text.contains("apiGroups: [\"\"]"), "{text}");
        assert!(text.contains(r"(?i:charts\.example\.org):8443/a\+b"), "{text}");
    }

    #[test]
    fn the_walk_is_as_long_as_a_parser_takes() {
        assert_eq!(inline().matches("string(p[1][n])").count(), LEVELS - 1);
        assert!(inline().len() < 50_000, "half of the code points that a parser takes: {}", inline().len());
        assert!(!Policy::new(Vec::new(), Vec::new()).admission().contains("pullet-kinds"));
    }
}
