//! The table of what a job may do, `tests/vectors/policy-cases.json`, and that several policies together permit what each
//! of them permits.

use std::collections::BTreeSet;

use proptest::prelude::{Just, ProptestConfig, Strategy, any, prop_oneof, proptest};
use proptest::sample::{select, subsequence};
use pullet::config::{Config, Settings};
use pullet::protocol::{GroupKind, Instruction, Job};
use pullet::trust::policy::{
    ChartPattern, NamespacePattern, NamespaceRule, Namespaces, OperationType, Policy, Provenance, Rules,
    check_namespace_list,
};
use serde::Deserialize;
use serde_json::{Value, json};

const TABLE: &str = include_str!("../vectors/policy-cases.json");

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    #[serde(rename = "about")]
    _about: String,
    cases: Vec<Case>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Case {
    pub(crate) name: String,
    #[serde(default)]
    policy: Option<Value>,
    #[serde(flatten)]
    pub(crate) input: Input,
    #[serde(default)]
    encrypted: bool,
    #[serde(default)]
    pub(crate) allowed_types: Option<String>,
    pub(crate) verdict: Verdict,
    #[serde(default)]
    pub(crate) reason: Option<String>,
    #[serde(default)]
    pub(crate) path: Option<String>,
    /// Whether an API server can tell, too.
    #[serde(default)]
    pub(crate) admission: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Input {
    Apply(Value),
    Delete(Value),
    Inline(Value),
    Instance(Value),
    Operation(Value),
    Text(String),
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Verdict {
    Permit,
    Refuse,
}

/// The policy of settings that are given as an object; strings, lists and switches are written in TOML as in JSON.
pub(crate) fn policy_of(settings: &Value) -> Policy {
    let lines: Vec<String> =
        settings.as_object().unwrap().iter().map(|(key, value)| format!("{key} = {value}")).collect();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), lines.join("\n")).unwrap();
    let settings = Settings { config: Some(file.path().to_owned()), ..Settings::default() }.with_file().unwrap();
    Config::new(settings, |_| None).unwrap().policy
}

impl Case {
    /// The job as it would arrive.
    fn job(&self) -> String {
        let (kind, payload) = match &self.input {
            Input::Text(text) => return text.clone(),
            Input::Delete(payload) => ("delete", payload.clone()),
            _ => ("apply", self.manifest().unwrap()),
        };
        json!({"id": "a", "kind": kind, "payload": payload}).to_string()
    }

    /// What is applied; none where nothing is.
    pub(crate) fn manifest(&self) -> Option<Value> {
        let object = |version: &str, kind: &str, spec: &Value| json!({"apiVersion": version, "kind": kind, "metadata": {"name": "a", "namespace": "shop"}, "spec": spec});
        let instance = |spec: &Value| object("apps.vworkspace.io/v1alpha1", "ApplicationInstance", spec);
        match &self.input {
            Input::Apply(manifest) => Some(manifest.clone()),
            Input::Delete(_) | Input::Text(_) => None,
            Input::Inline(values) => Some(instance(&json!({"values": {"inline": values}}))),
            Input::Instance(spec) => Some(instance(spec)),
            Input::Operation(spec) => Some(object("ops.vworkspace.io/v1alpha1", "Operation", spec)),
        }
    }

    /// Nothing is set that says what jobs may do.
    pub(crate) fn has_default_policy(&self) -> bool {
        self.policy.is_none()
    }

    pub(crate) fn policy(&self) -> Policy {
        policy_of(&self.policy.clone().unwrap_or_else(|| json!({})))
    }

    /// None when it is permitted, else the reason and the message.
    fn judge(&self, policy: &Policy) -> Option<(&'static str, String)> {
        let text = self.job();
        let job = match Job::parse(&text) {
            Ok(job) => job,
            Err((_, error)) => return Some((error.reason(), error.to_string())),
        };
        let instruction = match job.instruction() {
            Ok(instruction) => instruction,
            Err(error) => return Some((error.reason(), error.to_string())),
        };
        let judged =
            policy.check(&instruction, Provenance { encrypted: self.encrypted }).and_then(|_| match &instruction {
                Instruction::Apply(manifest) => check_namespace_list(self.allowed_types.as_deref(), manifest),
                _ => Ok(()),
            });
        judged.err().map(|refusal| (refusal.reason(), refusal.to_string()))
    }
}

pub(crate) fn cases() -> Vec<Case> {
    serde_json::from_str::<Table>(TABLE).unwrap().cases
}

#[test]
fn every_case_of_the_table_ends_as_it_says() {
    let cases = cases();
    assert!(cases.len() >= 250, "{}", cases.len());
    let mut wrong = Vec::new();
    for case in &cases {
        let judged = case.judge(&case.policy());
        let length = judged.as_ref().map_or(0, |(reason, message)| reason.len() + message.len());
        assert!(length < pullet::limits::ERROR_BYTES, "{}: a result would cut what is to be done", case.name);
        let fits = match (&judged, case.verdict) {
            (None, Verdict::Permit) => case.reason.is_none(),
            (Some((reason, message)), Verdict::Refuse) => {
                case.reason.as_deref() == Some(*reason)
                    && case.path.as_ref().is_none_or(|path| message.contains(path.as_str()))
            }
            _ => false,
        };
        if !fits {
            wrong.push(format!("{}: {judged:?}", case.name));
        }
    }
    assert!(wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

/// A message goes to a server and into logs.
#[test]
fn no_message_holds_a_value() {
    let secret = "geheim-7f3a";
    let policy = Policy::from(Rules { charts: Some(Vec::new()), ..Rules::default() });
    let spec = |spec: Value| Case {
        name: String::new(),
        policy: None,
        input: Input::Instance(spec),
        encrypted: false,
        allowed_types: None,
        verdict: Verdict::Refuse,
        reason: None,
        path: None,
        admission: None,
    };
    for case in [
        spec(json!({"values": {"inline": {"password": secret}}})),
        spec(json!({"values": {"inline": {"env": [{"name": "token", "value": secret}]}}})),
        spec(json!({"values": {"inline": {"a": format!("-----BEGIN PRIVATE KEY-----{secret}")}}})),
        spec(json!({"values": {"inline": secret}})),
        spec(json!({"values": secret})),
        spec(json!({"mode": [secret]})),
        spec(json!({"chart": {"sourceType": "helm", "url": format!("https://u:{secret}@charts.example.org")}})),
        spec(json!({"chart": {"sourceType": "helm", "url": format!("https://charts.example.org/?token={secret}")}})),
        spec(json!({"chart": {"sourceType": "helm", "url": "https://charts.example.org", "version": secret}})),
        spec(json!({"chart": secret})),
    ] {
        let (_, message) = case.judge(&policy).unwrap();
        assert!(!message.contains(secret), "{message}");
        assert!(message.len() > 40, "{message}");
    }
}

/// Rules as anybody might write them.
fn rules() -> impl Strategy<Value = Rules> {
    let kinds =
        ["/ConfigMap", "/Secret", "/Namespace", "ops.vworkspace.io/Cluster", "apps.vworkspace.io/ApplicationInstance"]
            .into_iter()
            .chain(["ops.vworkspace.io/Operation", "rbac.authorization.k8s.io/ClusterRoleBinding"])
            .map(|text| GroupKind::parse(text).unwrap())
            .collect::<Vec<_>>();
    let spaces = ["shop", "s*", "default", "clinic-*", "other", "vworkspace-system", "kube-system", "k*"]
        .map(|text| NamespacePattern::parse(text).unwrap())
        .to_vec();
    let charts =
        ["*", "catalog:*", "catalog:wiki", "https://charts.example.org", "https://charts.example.org#wiki@1.2.3"]
            .into_iter()
            .chain(["oci://registry.example/charts/*", "oci://registry.example/*"])
            .map(|text| ChartPattern::parse(text).unwrap())
            .collect::<Vec<_>>();
    let kinds = proptest::option::of(subsequence(kinds, 0..=7));
    let namespaces = prop_oneof![
        Just(Namespaces::Any),
        Just(Namespaces::Managed),
        subsequence(spaces, 0..=8).prop_map(Namespaces::Listed),
    ];
    let charts = proptest::option::of(subsequence(charts, 0..=7));
    let operations = proptest::option::of(subsequence(OperationType::ALL.to_vec(), 0..=6));
    (kinds, namespaces, charts, operations, any::<bool>(), any::<bool>()).prop_map(
        |(kinds, namespaces, charts, operations, requires_encrypted_secrets, requires_signatures)| Rules {
            kinds,
            namespaces,
            charts,
            operations,
            requires_encrypted_secrets,
            requires_signatures,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn policies_together_permit_what_each_of_them_permits(a in rules(), b in rules(), c in rules()) {
        let (a, b, c) = (Policy::from(a), Policy::from(b), Policy::from(c));
        let both = a.narrowed_by(&b);
        let all = both.narrowed_by(&c);
        assert_eq!(both.requires_signatures(), a.requires_signatures() || b.requires_signatures());
        for case in &cases() {
            let permits = |policy: &Policy| case.judge(policy).is_none();
            assert_eq!(permits(&both), permits(&a) && permits(&b), "{}", case.name);
            assert_eq!(permits(&all), permits(&both) && permits(&c), "{}", case.name);
            assert_eq!(permits(&a.narrowed_by(&a)), permits(&a), "{}", case.name);
        }
    }

    #[test]
    fn nobody_widens_which_namespaces_need_their_label(a in rules(), b in rules(), which in select(vec!["shop", "default"])) {
        let text = json!({"id": "a", "kind": "delete", "payload":
            {"apiVersion": "apps.vworkspace.io/v1alpha1", "kind": "ApplicationInstance", "name": "a", "namespace": which}});
        let text = text.to_string();
        let job = Job::parse(&text).unwrap();
        let instruction = job.instruction().unwrap();
        let rule = |policy: &Policy| policy.check(&instruction, Provenance::default());
        let (a, b) = (Policy::from(a), Policy::from(b));
        if let Ok(NamespaceRule::Listed) = rule(&a.narrowed_by(&b)) {
            assert_eq!((rule(&a), rule(&b)), (Ok(NamespaceRule::Listed), Ok(NamespaceRule::Listed)));
        }
    }
}

/// What a party does not speak of, it does not narrow; and the file's kinds are what is watched.
#[test]
fn silence_narrows_nothing() {
    let owner = Policy::new(vec![GroupKind::parse("/ConfigMap").unwrap()], Vec::new());
    let silent = Policy::from(Rules::default());
    assert_eq!(owner.narrowed_by(&silent).kinds(), owner.kinds());
    assert_eq!(silent.narrowed_by(&owner).kinds(), owner.kinds());
    let strict = Policy::from(Rules { kinds: Some(vec![GroupKind::parse("/ConfigMap").unwrap()]), ..Rules::default() });
    assert_eq!(owner.narrowed_by(&strict).kinds().len(), 1);
    let reasons: BTreeSet<_> = cases().into_iter().filter_map(|case| case.reason).collect();
    assert!(reasons.len() >= 10, "the table shows every reason: {reasons:?}");
}
