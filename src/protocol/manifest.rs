//! A manifest without a tree.
//!
//! A job's payload is up to 256 KiB of somebody else's JSON, and a tree of it can cost ninety times its
//! text. So a manifest is kept as the text of its members: only `metadata` is taken apart, because the
//! labels and the namespace are ours to set; what is below `spec` is passed on as it came.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use serde::de::{self, MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

use super::ObjectRef;

/// Members of a manifest in their order, each name once.
type Members<'a> = Vec<(Cow<'a, str>, &'a RawValue)>;

/// A whole manifest, borrowed from the text it came in.
#[derive(Debug)]
pub struct Manifest<'a> {
    /// Group and version.
    pub api_version: String,
    /// Kind.
    pub kind: String,
    /// `metadata.name`.
    pub name: String,
    /// `metadata.namespace`, empty when there is none.
    pub namespace: String,
    /// `metadata.labels`.
    pub labels: BTreeMap<String, String>,
    /// `metadata.annotations`.
    pub annotations: BTreeMap<String, String>,
    members: Members<'a>,
}

/// Why a text is no manifest that may be applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ManifestError {
    /// A name that no object can have; which of the four.
    InvalidName(&'static str),
    /// `apiVersion` and `kind` are given, but not those the intent is about.
    NotOfKind(&'static str),
    /// It is no JSON object, a member is there twice, or a member is of the wrong type.
    Malformed(String),
    /// A member that every manifest has is not there.
    Missing(&'static str),
    /// A member of a manifest that is not for a control plane to set.
    Refused(&'static str),
}

impl fmt::Display for ManifestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InvalidName(member) => {
                write!(f, "{member} is no name that Kubernetes would take: check its letters and its length")
            }
            Self::NotOfKind(kind) => write!(f, "the manifest is not of kind {kind}"),
            Self::Malformed(reason) => write!(f, "the manifest cannot be read: {reason}"),
            Self::Missing(member) => write!(f, "the manifest has no {member}"),
            Self::Refused(member) => write!(f, "the manifest sets {member}, which no job may set"),
        }
    }
}

impl std::error::Error for ManifestError {}

impl<'a> Manifest<'a> {
    /// Reads a manifest. `expected` is (apiVersion, kind) where the intent says what the object is; both
    /// may then be left out of the text.
    ///
    /// # Errors
    /// As [`ManifestError`] lists them.
    pub fn parse(text: &'a RawValue, expected: Option<(&str, &'static str)>) -> Result<Self, ManifestError> {
        let mut members = read_members(text)?;
        let mut api_version = take_text(&mut members, "apiVersion")?;
        let mut kind = take_text(&mut members, "kind")?;
        if let Some((expected_version, expected_kind)) = expected {
            let named = |text: &Option<String>, expected: &str| text.as_deref().is_none_or(|text| text == expected);
            if !named(&api_version, expected_version) || !named(&kind, expected_kind) {
                return Err(ManifestError::NotOfKind(expected_kind));
            }
            api_version = Some(expected_version.to_owned());
            kind = Some(expected_kind.to_owned());
        }
        let metadata = take(&mut members, "metadata").ok_or(ManifestError::Missing("metadata"))?;
        // serde would take a list for it, too.
        if !metadata.get().starts_with('{') {
            return Err(ManifestError::Malformed("metadata is no object".to_owned()));
        }
        let metadata: Metadata = read(metadata)?;
        if let Some(refused) = metadata.refused() {
            return Err(ManifestError::Refused(refused));
        }
        let kind = kind.filter(|kind| !kind.is_empty()).ok_or(ManifestError::Missing("kind"))?;
        check_members(&kind, &members)?;
        let api_version =
            api_version.filter(|version| !version.is_empty()).ok_or(ManifestError::Missing("apiVersion"))?;
        let name =
            Some(metadata.name).filter(|name| !name.is_empty()).ok_or(ManifestError::Missing("metadata.name"))?;
        let namespace = metadata.namespace.unwrap_or_default();
        if let Some(wrong) = wrong_name(&api_version, &kind, &namespace, &name) {
            return Err(ManifestError::InvalidName(wrong));
        }
        Ok(Self {
            api_version,
            kind,
            name,
            namespace,
            labels: metadata.labels.unwrap_or_default(),
            annotations: metadata.annotations.unwrap_or_default(),
            members,
        })
    }

    /// Reads an object as an API server has it: with what a server fills in and what controllers set, and with names that
    /// the server found to be ones.
    ///
    /// # Errors
    /// As [`ManifestError`] lists them.
    #[cfg(feature = "webhook")]
    pub fn of_server(text: &'a RawValue) -> Result<Self, ManifestError> {
        let mut members = read_members(text)?;
        let api_version = take_text(&mut members, "apiVersion")?.ok_or(ManifestError::Missing("apiVersion"))?;
        let kind = take_text(&mut members, "kind")?.ok_or(ManifestError::Missing("kind"))?;
        let metadata = take(&mut members, "metadata").ok_or(ManifestError::Missing("metadata"))?;
        let Metadata { name, namespace, labels, annotations, .. } = read(metadata)?;
        take(&mut members, "status");
        check_members(&kind, &members)?;
        Ok(Self {
            api_version,
            kind,
            name,
            namespace: namespace.unwrap_or_default(),
            labels: labels.unwrap_or_default(),
            annotations: annotations.unwrap_or_default(),
            members,
        })
    }

    /// Whether the members beside apiVersion, kind and metadata are those of another manifest, to the letter.
    #[cfg(feature = "webhook")]
    #[must_use]
    pub fn has_members_of(&self, other: &Self) -> bool {
        let is_there = |(name, text): &(Cow<'a, str>, &'a RawValue)| {
            other.member(name).is_some_and(|there| there.get() == text.get())
        };
        self.members.len() == other.members.len() && self.members.iter().all(is_there)
    }

    /// The text of a member at the top, `spec` for one.
    #[must_use]
    pub fn member(&self, name: &str) -> Option<&'a RawValue> {
        self.members.iter().find(|(member, _)| member == name).map(|(_, text)| *text)
    }

    /// The object, without what only a cluster knows of it.
    #[must_use]
    pub fn reference(&self) -> ObjectRef {
        let Self { api_version, kind, namespace, name, .. } = self;
        let [api_version, kind, namespace, name] = [api_version, kind, namespace, name].map(Clone::clone);
        ObjectRef { api_version, kind, namespace, name, uid: String::new(), generation: None }
    }

    /// Writes the manifest with further labels; they win over its own of the same name.
    #[must_use]
    pub fn write(&self, labels: &[(&str, &str)]) -> Vec<u8> {
        // Maps with text keys and raw JSON cannot fail to be written to memory.
        serde_json::to_vec(&Written { manifest: self, labels }).unwrap_or_default()
    }
}

/// A manifest with labels of ours.
struct Written<'a> {
    manifest: &'a Manifest<'a>,
    labels: &'a [(&'a str, &'a str)],
}

impl Serialize for Written<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let manifest = self.manifest;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("apiVersion", &manifest.api_version)?;
        map.serialize_entry("kind", &manifest.kind)?;
        map.serialize_entry("metadata", &WrittenMetadata(self))?;
        for (name, text) in &manifest.members {
            map.serialize_entry(name, text)?;
        }
        map.end()
    }
}

/// Writes the manifest with its labels, annotations and namespace as they are now.
impl Serialize for Manifest<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Written { manifest: self, labels: &[] }.serialize(serializer)
    }
}

struct WrittenMetadata<'a>(&'a Written<'a>);

impl Serialize for WrittenMetadata<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Written { manifest, labels } = self.0;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("name", &manifest.name)?;
        if !manifest.namespace.is_empty() {
            map.serialize_entry("namespace", &manifest.namespace)?;
        }
        let mut all: BTreeMap<&str, &str> =
            manifest.labels.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        all.extend(labels.iter().copied());
        if !all.is_empty() {
            map.serialize_entry("labels", &all)?;
        }
        if !manifest.annotations.is_empty() {
            map.serialize_entry("annotations", &manifest.annotations)?;
        }
        map.end()
    }
}

/// What a manifest's `metadata` may say. What a server fills in (uid, resourceVersion, …) is dropped; what
/// would bind the object to another one, or keep it from being deleted, is refused.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata<'a> {
    #[serde(default)]
    name: String,
    #[serde(default)]
    namespace: Option<String>,
    #[serde(default)]
    labels: Option<BTreeMap<String, String>>,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
    #[serde(default, borrow)]
    generate_name: Option<&'a RawValue>,
    #[serde(default, borrow)]
    owner_references: Option<&'a RawValue>,
    #[serde(default, borrow)]
    finalizers: Option<&'a RawValue>,
    #[serde(default, borrow)]
    managed_fields: Option<&'a RawValue>,
}

impl Metadata<'_> {
    fn refused(&self) -> Option<&'static str> {
        [
            (self.generate_name, "metadata.generateName"),
            (self.owner_references, "metadata.ownerReferences"),
            (self.finalizers, "metadata.finalizers"),
            (self.managed_fields, "metadata.managedFields"),
        ]
        .into_iter()
        .find(|(member, _)| member.is_some())
        .map(|(_, name)| name)
    }
}

fn read<'a, T: Deserialize<'a>>(text: &'a RawValue) -> Result<T, ManifestError> {
    serde_json::from_str(text.get()).map_err(malformed)
}

/// The reason without the text it was found in: a payload never appears in a message.
fn malformed(error: serde_json::Error) -> ManifestError {
    ManifestError::Malformed(match error.classify() {
        serde_json::error::Category::Data => format!("wrong type or repeated member at column {}", error.column()),
        _ => format!("not JSON at column {}", error.column()),
    })
}

fn take<'a>(members: &mut Members<'a>, name: &str) -> Option<&'a RawValue> {
    let at = members.iter().position(|(member, _)| member == name)?;
    Some(members.remove(at).1)
}

fn take_text(members: &mut Members<'_>, name: &str) -> Result<Option<String>, ManifestError> {
    take(members, name).map(read).transpose()
}

fn read_members(text: &RawValue) -> Result<Members<'_>, ManifestError> {
    struct MembersVisitor;

    impl<'de> Visitor<'de> for MembersVisitor {
        type Value = Members<'de>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut members: Members<'de> = Vec::new();
            while let Some(name) = map.next_key::<Name<'de>>()? {
                if members.iter().any(|(member, _)| *member == name.0) {
                    return Err(de::Error::custom("repeated member"));
                }
                if members.len() == MEMBERS_MAX {
                    return Err(de::Error::custom("too many members"));
                }
                members.push((name.0, map.next_value()?));
            }
            Ok(members)
        }
    }

    let mut deserializer = serde_json::Deserializer::from_str(text.get());
    deserializer.deserialize_map(MembersVisitor).map_err(malformed)
}

/// The members by which a manifest is judged.
const JUDGED: [&str; 4] = ["apiVersion", "kind", "metadata", "spec"];

/// Whatever its kind, an object with items is a list to a reader of untyped objects, k3s for one, and nobody
/// would look at what is in it. Some readers do not care about case; we judge by it, and so refuse variants.
fn check_members(kind: &str, members: &Members<'_>) -> Result<(), ManifestError> {
    let has = |wanted: &str| members.iter().any(|(name, _)| name.eq_ignore_ascii_case(wanted));
    if kind == "List" || has("items") {
        return Err(ManifestError::Refused("several objects in one job (items)"));
    }
    if has("status") {
        return Err(ManifestError::Refused("status"));
    }
    let is_variant = |name: &str| JUDGED.iter().any(|known| name != *known && name.eq_ignore_ascii_case(known));
    if members.iter().any(|(name, _)| is_variant(name)) {
        return Err(ManifestError::Refused(
            "a member that differs from apiVersion, kind, metadata or spec in case alone",
        ));
    }
    Ok(())
}

/// Which of an object's four names cannot be one. They end in paths, logs and results: none is longer than
/// Kubernetes lets it be.
pub(super) fn wrong_name(api_version: &str, kind: &str, namespace: &str, name: &str) -> Option<&'static str> {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let is_word =
        |text: &str| !text.is_empty() && text.len() <= 63 && text.bytes().all(|byte| byte.is_ascii_alphanumeric());
    if !(group.is_empty() || is_subdomain(group)) || !is_word(version) {
        return Some("apiVersion");
    }
    if !is_word(kind) {
        return Some("kind");
    }
    if !namespace.is_empty() && (namespace.len() > 63 || namespace.contains('.') || !is_subdomain(namespace)) {
        return Some("metadata.namespace");
    }
    // Roles and their bindings may have colons and capitals in their names, all else may not.
    let is_name = if group == "rbac.authorization.k8s.io" { is_path_segment(name) } else { is_subdomain(name) };
    (!is_name).then_some("metadata.name")
}

/// RFC 1123: labels of lower case letters, digits and dashes, joined by dots.
fn is_subdomain(text: &str) -> bool {
    let is_inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    text.len() <= 253
        && text.split('.').all(|label| {
            !label.is_empty() && !label.starts_with('-') && !label.ends_with('-') && label.bytes().all(is_inner)
        })
}

fn is_path_segment(text: &str) -> bool {
    let is_strange = |c: char| c.is_control() || c == '/' || c == '%';
    text.len() <= 253 && !text.is_empty() && !matches!(text, "." | "..") && !text.chars().any(is_strange)
}

/// A Kubernetes object has four or five members at the top; `Secret` and `ConfigMap` have seven.
const MEMBERS_MAX: usize = 32;

/// A member's name, borrowed where it has no escapes.
#[derive(Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

#[cfg(test)]
mod tests {
    use super::{Manifest, ManifestError};
    use serde_json::value::RawValue;

    fn raw(text: &str) -> Box<RawValue> {
        RawValue::from_string(text.to_owned()).unwrap()
    }

    fn refusal(text: &str) -> ManifestError {
        Manifest::parse(&raw(text), None).unwrap_err()
    }

    #[test]
    fn keeps_what_it_does_not_know() {
        let text = raw(
            r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a","namespace":"n","uid":"x"},"data":{"k":"\u00e4"},"x":1.50}"#,
        );
        let mut manifest = Manifest::parse(&text, None).unwrap();
        manifest.labels.insert("a".into(), "b".into());
        assert_eq!(
            serde_json::to_string(&manifest).unwrap(),
            r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a","namespace":"n","labels":{"a":"b"}},"data":{"k":"\u00e4"},"x":1.50}"#
        );
    }

    #[test]
    fn labels_of_ours_win_and_stay_out_of_the_manifest() {
        let text = raw(r#"{"apiVersion":"v1","kind":"A","metadata":{"name":"a","labels":{"x":"theirs","y":"1"}}}"#);
        let manifest = Manifest::parse(&text, None).unwrap();
        let written = String::from_utf8(manifest.write(&[("x", "ours")])).unwrap();
        assert_eq!(written, r#"{"apiVersion":"v1","kind":"A","metadata":{"name":"a","labels":{"x":"ours","y":"1"}}}"#);
        assert_eq!(manifest.labels["x"], "theirs");
    }

    #[test]
    fn an_intent_names_the_kind_by_itself() {
        let expected = Some(("ops.vworkspace.io/v1alpha1", "Operation"));
        let text = raw(r#"{"metadata":{"name":"a"}}"#);
        assert_eq!(Manifest::parse(&text, expected).unwrap().kind, "Operation");
        let text = raw(r#"{"kind":"Secret","metadata":{"name":"a"}}"#);
        assert_eq!(Manifest::parse(&text, expected).unwrap_err(), ManifestError::NotOfKind("Operation"));
    }

    #[test]
    fn refuses_what_no_job_may_set() {
        for member in ["generateName", "ownerReferences", "finalizers", "managedFields"] {
            let text = format!(r#"{{"apiVersion":"v1","kind":"A","metadata":{{"name":"a","{member}":[]}}}}"#);
            assert!(matches!(refusal(&text), ManifestError::Refused(name) if name.ends_with(member)), "{member}");
        }
        assert_eq!(
            refusal(r#"{"apiVersion":"v1","kind":"A","metadata":{"name":"a"},"status":{}}"#),
            ManifestError::Refused("status")
        );
        assert!(matches!(
            refusal(r#"{"apiVersion":"v1","kind":"List","metadata":{"name":"a"},"items":[]}"#),
            ManifestError::Refused(_)
        ));
    }

    #[test]
    fn no_object_is_a_list_in_disguise() {
        for member in ["items", "Items", "ITEMS", "it\\u0065ms"] {
            for value in ["null", "[]", r#"[{"kind":"ClusterRoleBinding"}]"#] {
                let text = format!(
                    r#"{{"apiVersion":"apps.vworkspace.io/v1alpha1","kind":"ApplicationInstance","metadata":{{"name":"a"}},"{member}":{value}}}"#
                );
                assert!(matches!(refusal(&text), ManifestError::Refused(name) if name.contains("items")), "{text}");
            }
        }
        for member in ["Spec", "Kind", "apiversion", "METADATA", "Status"] {
            let text = format!(r#"{{"apiVersion":"v1","kind":"A","metadata":{{"name":"a"}},"{member}":{{}}}}"#);
            assert!(matches!(refusal(&text), ManifestError::Refused(_)), "{text}");
        }
    }

    #[test]
    fn names_are_those_that_an_api_server_would_take() {
        let of = |version: &str, kind: &str, namespace: &str, name: &str| {
            let text = format!(
                r#"{{"apiVersion":"{version}","kind":"{kind}","metadata":{{"name":"{name}","namespace":"{namespace}"}}}}"#
            );
            Manifest::parse(&raw(&text), None).map(|_| ())
        };
        let long = |count: usize| "x".repeat(count);
        assert_eq!(of("v1", "A", "", "a"), Ok(()));
        assert_eq!(of("apps.example/v1", "A", &long(63), &long(253)), Ok(()));
        assert_eq!(of("rbac.authorization.k8s.io/v1", "ClusterRole", "", "system:Node"), Ok(()));
        for (version, kind, namespace, name, wrong) in [
            (long(64).as_str(), "A", "", "a", "apiVersion"),
            (&format!("{}/v1", long(254)), "A", "", "a", "apiVersion"),
            ("a/b/c", "A", "", "a", "apiVersion"),
            ("Apps/v1", "A", "", "a", "apiVersion"),
            ("v1", &long(64), "", "a", "kind"),
            ("v1", "A/b", "", "a", "kind"),
            ("v1", "A", &long(64), "a", "metadata.namespace"),
            ("v1", "A", "a.b", "a", "metadata.namespace"),
            ("v1", "A", "..", "a", "metadata.namespace"),
            ("v1", "A", "", &long(254), "metadata.name"),
            ("v1", "A", "", "../../x", "metadata.name"),
            ("v1", "A", "", "Upper", "metadata.name"),
            ("rbac.authorization.k8s.io/v1", "ClusterRole", "", "..", "metadata.name"),
        ] {
            assert_eq!(of(version, kind, namespace, name), Err(ManifestError::InvalidName(wrong)), "{version} {kind}");
        }
    }

    #[test]
    fn says_what_is_missing_or_malformed() {
        assert_eq!(refusal(r#"{"apiVersion":"v1","kind":"A"}"#), ManifestError::Missing("metadata"));
        assert_eq!(refusal(r#"{"apiVersion":"v1","kind":"A","metadata":{}}"#), ManifestError::Missing("metadata.name"));
        assert_eq!(refusal(r#"{"kind":"A","metadata":{"name":"a"}}"#), ManifestError::Missing("apiVersion"));
        for text in [
            "[]",
            "null",
            r#""a""#,
            r#"{"kind":"A","kind":"B"}"#,
            r#"{"apiVersion":1}"#,
            r#"{"apiVersion":"v1","kind":"A","metadata":{"name":7}}"#,
            r#"{"apiVersion":"v1","kind":"A","metadata":["a","shop"]}"#,
            r#"{"apiVersion":"v1","kind":"A","metadata":{"name":"a","name":"b"}}"#,
        ] {
            assert!(matches!(refusal(text), ManifestError::Malformed(_)), "{text}");
        }
    }
}
