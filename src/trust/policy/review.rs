//! What an API server asks before it stores an object (`admission.k8s.io/v1`), judged by the policy of jobs.
//!
//! The rules are those of the admission policies (`admission`, decision 0024), and what an expression cannot do is done here:
//! values are searched to their end however deep they lie, and a message says where something was found.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::operation::{ALLOWED_TYPES_ANNOTATION, check_namespace_list};
use super::{NamespaceRule, OWN_ACCOUNT, Policy, Provenance, Refusal};
use crate::json;
use crate::protocol::{
    APPLICATION_INSTANCE, MANAGED_BY_LABEL, MANAGED_BY_VALUE, Manifest, OPERATION, ObjectRef, group_of,
};

/// Those that delete what went with a namespace or an owner, whatever it is.
const CONTROLLERS: [&str; 3] = [
    "system:kube-controller-manager",
    "system:serviceaccount:kube-system:generic-garbage-collector",
    "system:serviceaccount:kube-system:namespace-controller",
];

/// The finalizers of the controllers of our kinds.
const OWN_FINALIZERS: [&str; 2] = ["apps.vworkspace.io/finalizer", "ops.vworkspace.io/finalizer"];

/// What is asked, borrowed from the text it came in.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Review<'a> {
    /// Which request it is: the answer says it, too.
    pub uid: String,
    kind: Kind,
    #[serde(default)]
    name: String,
    #[serde(default)]
    namespace: String,
    operation: String,
    user_info: User,
    #[serde(borrow, default)]
    object: Option<&'a RawValue>,
    #[serde(borrow, default)]
    old_object: Option<&'a RawValue>,
}

#[derive(Debug, Deserialize)]
struct Kind {
    group: String,
    version: String,
    #[serde(rename = "kind")]
    name: String,
}

#[derive(Debug, Deserialize)]
struct User {
    #[serde(default)]
    username: String,
}

/// What only the API server knows of a namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Space {
    /// It is labelled `managed-by=vworkspace`.
    pub is_managed: bool,
    /// Its annotation [`ALLOWED_TYPES_ANNOTATION`].
    pub allowed_types: Option<String>,
}

/// Why an object is not to be stored: a word as in the result of a job, and what a person needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    /// As [`Refusal::reason`].
    pub reason: &'static str,
    text: String,
}

/// How a request is answered.
pub type Reviewed = Result<(), Denial>;

impl Denial {
    /// The namespace cannot be looked at, so nobody knows whether it is managed.
    #[must_use]
    pub fn unknown_namespace(why: &str) -> Self {
        Self { reason: "NamespaceUnknown", text: format!("the agent cannot look at the namespace: {why}") }
    }
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.reason, self.text)
    }
}

impl From<Refusal> for Denial {
    fn from(refusal: Refusal) -> Self {
        Self { reason: refusal.reason(), text: refusal.to_string() }
    }
}

impl<'a> Review<'a> {
    /// Reads an `AdmissionReview` with a request in it; none where it is something else.
    #[must_use]
    pub fn read(text: &'a [u8]) -> Option<Self> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Whole<'a> {
            api_version: String,
            kind: String,
            #[serde(borrow)]
            request: Review<'a>,
        }
        let whole: Whole<'a> = json::read(text).ok()?;
        let is_known = whole.api_version == "admission.k8s.io/v1" && whole.kind == "AdmissionReview";
        is_known.then_some(whole.request)
    }

    /// Answers a review of which only the beginning was read, because it is too long; none where an API server would have
    /// begun in another way. It writes which request it is, and who asks, before the object.
    #[must_use]
    pub fn too_long(opening: &[u8]) -> Option<(&str, Reviewed)> {
        let after = |mark: &str| {
            let text = match std::str::from_utf8(opening) {
                Ok(text) => text,
                // It ends amid a character.
                Err(error) => std::str::from_utf8(opening.get(..error.valid_up_to())?).ok()?,
            };
            // In the object stands whatever its writer likes.
            let text = text.split_once(r#","object":"#).map_or(text, |(before, _)| before);
            text.split_once(mark)?.1.split_once('"').map(|(value, _)| value)
        };
        let uid = after(r#""request":{"uid":""#)?;
        if !uid.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
            return None;
        }
        if after(r#","userInfo":{"username":""#) == Some(OWN_ACCOUNT) {
            return Some((uid, Ok(())));
        }
        let text = "the object, with what it was before, is larger than the 512 KiB that are read here: name a Secret or a \
                    ConfigMap in spec.values instead of large values";
        Some((uid, Err(Denial { reason: "TooLarge", text: text.to_owned() })))
    }

    fn api_version(&self) -> String {
        let Kind { group, version, .. } = &self.kind;
        if group.is_empty() { version.clone() } else { [group, "/", version].concat() }
    }

    fn is(&self, (version, kind): (&str, &str)) -> bool {
        self.kind.name == kind && self.kind.group == group_of(version)
    }

    fn is_namespace(&self) -> bool {
        self.is(("v1", "Namespace"))
    }

    /// Whoever wrote it says that it is the control plane's, or said so before.
    fn is_labelled(&self) -> bool {
        [self.object, self.old_object].into_iter().flatten().any(|object| {
            let labels = Metadata::of(object).labels;
            labels.is_some_and(|labels| labels.get(MANAGED_BY_LABEL).is_some_and(|value| value == MANAGED_BY_VALUE))
        })
    }

    /// More than metadata and status is new, or another. An API server writes what is the same in the same way.
    fn changes(&self) -> bool {
        let (Some(new), Some(old)) = (self.object, self.old_object) else { return true };
        let (Ok(new), Ok(old)) = (Manifest::of_server(new), Manifest::of_server(old)) else { return true };
        !new.has_members_of(&old)
    }
}

/// What is looked at beside the manifest.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Metadata {
    name: Option<String>,
    labels: Option<BTreeMap<String, String>>,
    annotations: Option<BTreeMap<String, String>>,
    finalizers: Option<Vec<String>>,
}

impl Metadata {
    /// What cannot be read is empty: a manifest that has it is refused for it.
    fn of(object: &RawValue) -> Self {
        #[derive(Deserialize)]
        struct Object {
            metadata: Metadata,
        }
        serde_json::from_str(object.get()).map(|Object { metadata }| metadata).unwrap_or_default()
    }
}

impl Policy {
    /// Whether this may be stored or deleted. `look` tells what the API server knows of a namespace, where that counts.
    ///
    /// # Errors
    /// [`Denial`]: the first clause that stops it.
    pub fn review(&self, asked: &Review<'_>, look: impl FnOnce(&str) -> Result<Space, Denial>) -> Reviewed {
        let user = asked.user_info.username.as_str();
        // What it writes was checked before, with more than a server sees.
        if user == OWN_ACCOUNT || asked.operation == "DELETE" && CONTROLLERS.contains(&user) {
            return Ok(());
        }
        let is_ours = asked.is(APPLICATION_INSTANCE) || asked.is(OPERATION);
        let is_listed = || self.kinds.iter().any(|kind| kind.matches(&asked.api_version(), &asked.kind.name));
        if !(is_ours || is_listed() && asked.is_labelled()) {
            return Ok(());
        }
        let manifest = match asked.object {
            Some(object) => {
                if asked.operation == "UPDATE" && !asked.is_namespace() && !asked.changes() {
                    return Ok(());
                }
                let manifest = Manifest::of_server(object);
                Some(manifest.map_err(|error| Denial { reason: "InvalidManifest", text: error.to_string() })?)
            }
            None => None,
        };
        let rule = match manifest {
            None => self.check_object(&asked.deleted())?,
            Some(ref manifest) => self.check_stored(asked, manifest, is_ours)?,
        };
        if asked.is_namespace() || asked.namespace.is_empty() {
            return Ok(());
        }
        let is_operation = manifest.as_ref().is_some_and(|_| asked.is(OPERATION));
        if rule != NamespaceRule::Managed && !is_operation {
            return Ok(());
        }
        let space = look(&asked.namespace)?;
        if rule == NamespaceRule::Managed && !space.is_managed {
            let text = "this namespace is not labelled managed-by=vworkspace".to_owned();
            return Err(Denial { reason: "NamespaceNotAllowed", text });
        }
        match &manifest {
            Some(manifest) => Ok(check_namespace_list(space.allowed_types.as_deref(), manifest)?),
            None => Ok(()),
        }
    }

    fn check_stored(
        &self,
        asked: &Review<'_>,
        manifest: &Manifest<'_>,
        is_ours: bool,
    ) -> Result<NamespaceRule, Denial> {
        let old = asked.old_object.map(Metadata::of).unwrap_or_default();
        let list = manifest.annotations.get(ALLOWED_TYPES_ANNOTATION);
        let is_kept = list.is_some() && list == old.annotations.unwrap_or_default().get(ALLOWED_TYPES_ANNOTATION);
        // How a Secret came to the cluster, the cluster does not know.
        let rule = if asked.is_namespace() && is_kept {
            self.check_object(&manifest.reference())?
        } else {
            self.check_apply(manifest, Provenance { encrypted: true })?
        };
        if is_ours
            && asked.operation == "CREATE"
            && let Some(object) = asked.object
            && Metadata::of(object).finalizers.into_iter().flatten().any(|one| !OWN_FINALIZERS.contains(&one.as_str()))
        {
            let text = "a new object comes with no finalizers but those of its own controllers".to_owned();
            return Err(Denial { reason: "MemberNotAllowed", text });
        }
        Ok(rule)
    }
}

impl Review<'_> {
    fn deleted(&self) -> ObjectRef {
        let name = self.old_object.and_then(|old| Metadata::of(old).name).unwrap_or_else(|| self.name.clone());
        ObjectRef {
            api_version: self.api_version(),
            kind: self.kind.name.clone(),
            // That of a namespace is itself, for the server.
            namespace: if self.is_namespace() { String::new() } else { self.namespace.clone() },
            name,
            ..ObjectRef::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Denial, OWN_ACCOUNT, Policy, Review, Space};
    use serde_json::{Value, json};

    fn asked(operation: &str, object: Value, old: Value) -> Value {
        json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {
            "uid": "u", "operation": operation, "name": "a", "namespace": "shop",
            "kind": {"group": "apps.vworkspace.io", "version": "v1alpha1", "kind": "ApplicationInstance"},
            "userInfo": {"username": "gitops", "groups": ["x"]}, "object": object, "oldObject": old, "dryRun": false,
        }})
    }

    fn instance(spec: Value) -> Value {
        json!({"apiVersion": "apps.vworkspace.io/v1alpha1", "kind": "ApplicationInstance",
            "metadata": {"name": "a", "namespace": "shop", "uid": "x", "managedFields": [{"manager": "k"}]},
            "spec": spec, "status": {"phase": "x"}})
    }

    fn evil() -> Value {
        instance(json!({"values": {"inline": {"token": "x"}}}))
    }

    fn managed() -> Space {
        Space { is_managed: true, allowed_types: None }
    }

    fn review(asked: &Value) -> Option<String> {
        let text = asked.to_string();
        let policy = Policy::new(vec![crate::protocol::GroupKind::parse("/ConfigMap").unwrap()], Vec::new());
        let review = Review::read(text.as_bytes()).unwrap();
        policy.review(&review, |_| Ok(managed())).err().map(|denial| denial.reason.to_owned())
    }

    const INLINE: Option<&str> = Some("InlineSecretMaterialRejected");

    #[test]
    fn what_controllers_change_passes_and_a_spec_is_judged() {
        let with = |mut object: Value, member: &str, value: Value| {
            object["metadata"][member] = value;
            object
        };
        let strange = || with(instance(json!({})), "finalizers", json!(["x/y"]));
        let own = with(instance(json!({})), "finalizers", json!(["apps.vworkspace.io/finalizer"]));
        let owned = with(with(instance(json!({})), "ownerReferences", json!([{}])), "generateName", json!("a-"));
        let mut other_status = evil();
        other_status["status"] = json!({"phase": "y"});
        for (name, reason, request) in [
            ("new", INLINE, asked("CREATE", evil(), Value::Null)),
            ("changed", INLINE, asked("UPDATE", evil(), instance(json!({})))),
            ("a spec where there was none", INLINE, {
                let mut old = evil();
                old.as_object_mut().unwrap().remove("spec");
                asked("UPDATE", evil(), old)
            }),
            ("mended", None, asked("UPDATE", instance(json!({})), evil())),
            ("a finalizer is set", None, asked("UPDATE", with(evil(), "finalizers", json!(["x/y"])), evil())),
            ("and removed", None, asked("UPDATE", evil(), with(evil(), "finalizers", json!(["x/y"])))),
            ("the status is another", None, asked("UPDATE", other_status, evil())),
            ("a finalizer of strangers", Some("MemberNotAllowed"), asked("CREATE", strange(), Value::Null)),
            ("one of its controller", None, asked("CREATE", own, Value::Null)),
            ("an owner and a generated name", None, asked("CREATE", owned, Value::Null)),
            ("deleted", None, asked("DELETE", Value::Null, evil())),
            ("no object", Some("InvalidManifest"), asked("CREATE", json!([]), Value::Null)),
            (
                "no metadata",
                Some("InvalidManifest"),
                asked("CREATE", json!({"apiVersion": "a/v1", "kind": "A"}), Value::Null),
            ),
        ] {
            assert_eq!(review(&request).as_deref(), reason, "{name}");
        }
    }

    #[test]
    fn who_asks_counts_by_the_whole_name() {
        let by = |user: &str, mut request: Value| {
            request["request"]["userInfo"]["username"] = json!(user);
            review(&request)
        };
        let new = || asked("CREATE", evil(), Value::Null);
        assert_eq!(by(OWN_ACCOUNT, new()), None);
        assert_eq!(by("system:serviceaccount:shop:pullet", new()).as_deref(), INLINE);
        let controller = "system:serviceaccount:kube-system:namespace-controller";
        assert_eq!(by(controller, new()).as_deref(), INLINE);
        let mut deletion = asked("DELETE", Value::Null, evil());
        deletion["request"]["namespace"] = json!("kube-system");
        assert_eq!(review(&deletion).as_deref(), Some("NamespaceNotAllowed"));
        assert_eq!(by(controller, deletion), None);
    }

    #[test]
    fn a_namespace_is_looked_at_where_its_label_counts_and_refused_where_it_cannot_be() {
        let text = asked("CREATE", instance(json!({})), Value::Null).to_string();
        let asked = Review::read(text.as_bytes()).unwrap();
        let policy = Policy::new(Vec::new(), Vec::new());
        let denied = policy.review(&asked, |_| Ok(Space::default())).unwrap_err();
        assert_eq!(denied.to_string(), "NamespaceNotAllowed: this namespace is not labelled managed-by=vworkspace");
        let unknown = policy.review(&asked, |name| Err(Denial::unknown_namespace(name))).unwrap_err();
        assert_eq!(unknown.reason, "NamespaceUnknown");
        let listed = vec![crate::trust::policy::NamespacePattern::parse("shop").unwrap()];
        let listed = Policy::new(Vec::new(), listed);
        assert_eq!(listed.review(&asked, |_| Err(Denial::unknown_namespace("asked in vain"))), Ok(()));
    }

    #[test]
    fn further_kinds_are_judged_where_they_are_labelled_and_others_never() {
        let of = |group: &str, kind: &str, labels: Value, namespace: &str| {
            let version = if group.is_empty() { "v1".to_owned() } else { format!("{group}/v1") };
            let object = json!({"apiVersion": version, "kind": kind, "metadata": {"name": "pullet", "namespace": namespace, "labels": labels}});
            let mut request = asked("CREATE", object, Value::Null);
            request["request"]["kind"] = json!({"group": group, "version": "v1", "kind": kind});
            request["request"]["namespace"] = json!(namespace);
            review(&request)
        };
        let label = || json!({"app.vworkspace.io/managed-by": "control-plane"});
        assert_eq!(of("", "ConfigMap", label(), "kube-system").as_deref(), Some("NeverAllowed"));
        assert_eq!(of("", "ConfigMap", json!({}), "kube-system"), None);
        assert_eq!(of("", "ConfigMap", json!({"app.vworkspace.io/managed-by": "me"}), "kube-system"), None);
        assert_eq!(of("", "Secret", label(), "kube-system"), None);
        assert_eq!(of("x", "ConfigMap", label(), "kube-system"), None);
    }

    #[test]
    fn values_are_searched_to_their_end() {
        let deep = (0..60).fold(json!({"token": "x"}), |value, _| json!({"a": [value]}));
        let text = asked("CREATE", instance(json!({"values": {"inline": deep}})), Value::Null).to_string();
        let asked = Review::read(text.as_bytes()).unwrap();
        let denied = Policy::new(Vec::new(), Vec::new()).review(&asked, |_| Ok(managed())).unwrap_err();
        assert!(
            denied.to_string().starts_with("InlineSecretMaterialRejected: spec.values.inline.a[0].a[0]"),
            "{denied}"
        );
    }

    #[test]
    fn a_review_that_is_too_long_is_answered_by_its_beginning() {
        let asked = |user: &str| {
            format!(
                r#"{{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1","request":{{"uid":"7-b","name":"\"userInfo\":{{","operation":"CREATE","userInfo":{{"username":"{user}"}},"object":{{"ä"#
            )
        };
        let gitops = asked("gitops");
        for end in gitops.find("\",\"name").unwrap() + 1..=gitops.len() {
            let (uid, reviewed) = Review::too_long(&gitops.as_bytes()[..end]).unwrap();
            assert_eq!((uid, reviewed.unwrap_err().reason), ("7-b", "TooLarge"), "{end}");
        }
        assert_eq!(Review::too_long(asked(OWN_ACCOUNT).as_bytes()), Some(("7-b", Ok(()))));
        let nobody = format!(
            r#"{{"request":{{"uid":"7-b","userInfo":{{}},"object":{{"a":1,"userInfo":{{"username":"{OWN_ACCOUNT}"}}}}"#
        );
        assert!(Review::too_long(nobody.as_bytes()).unwrap().1.is_err(), "it says so of itself");
        assert!(
            Review::too_long(asked("system:serviceaccount:vworkspace-system:pullet2").as_bytes()).unwrap().1.is_err()
        );
        for wrong in
            ["", "{}", r#"{"request":{"uid":"7"#, r#"{"request":{"uid":"a\u0022"#, r#"{"request":{"uid":"a b""#]
        {
            assert_eq!(Review::too_long(wrong.as_bytes()), None, "{wrong}");
        }
    }

    #[test]
    fn what_is_no_review_is_none_wherever_it_ends() {
        let whole = asked("CREATE", evil(), Value::Null).to_string();
        for end in 0..whole.len() {
            assert!(Review::read(&whole.as_bytes()[..end]).is_none(), "{end}");
        }
        for (at, wrong) in [
            ("/apiVersion", json!("admission.k8s.io/v1beta1")),
            ("/apiVersion", json!(7)),
            ("/kind", json!("Review")),
            ("/request", Value::Null),
            ("/request", json!([])),
            ("/request/uid", json!(7)),
            ("/request/kind", json!("ApplicationInstance")),
            ("/request/userInfo", Value::Null),
            ("/request/userInfo/username", json!(["a"])),
            ("/request/operation", Value::Null),
            ("/request/namespace", json!({})),
        ] {
            let mut review = asked("CREATE", evil(), Value::Null);
            *review.pointer_mut(at).unwrap() = wrong;
            assert!(Review::read(review.to_string().as_bytes()).is_none(), "{at}");
        }
        let twice = whole.replacen("\"uid\":\"u\"", "\"uid\":\"u\",\"uid\":\"v\"", 1);
        assert!(twice != whole && Review::read(twice.as_bytes()).is_none());
        assert!(Review::read(b"\xff").is_none());
    }
}
