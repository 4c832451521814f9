//! The Kubernetes target: applying and deleting, against a real API server.

use std::path::PathBuf;

use http::Method;
use pullet::net::PlainHttp;
use pullet::protocol::{Manifest, ObjectRef};
use pullet::target::kubernetes::{Access, AccessError, Kubernetes, Surroundings, Wish};
use pullet::target::{Applied, Deleted, FieldConflict, GroupKind, NamespaceRule, Readiness, Target, TargetError};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::apiserver::{ApiServer, unique};

/// The cluster id of every test here.
pub(crate) const CLUSTER: &str = "it-1";

/// What a kubeconfig gives access to.
pub(crate) fn access(kubeconfig: PathBuf) -> Result<Access, AccessError> {
    let wish =
        Wish { kubeconfig: Some(kubeconfig), context: None, foreground_root: false, plain_http: PlainHttp::Refused };
    Access::find(&wish, &Surroundings { variable: &|_| None, root: PathBuf::from("/") })
}

/// A target on a kubeconfig that watches nothing.
pub(crate) fn target(kubeconfig: PathBuf) -> Kubernetes {
    watching(kubeconfig, CLUSTER, &[])
}

/// A target on a kubeconfig that watches these kinds.
pub(crate) fn watching(kubeconfig: PathBuf, cluster_id: &str, kinds: &[&str]) -> Kubernetes {
    let kinds = kinds.iter().map(|kind| GroupKind::parse(kind).unwrap()).collect();
    Kubernetes::open(&access(kubeconfig).unwrap(), cluster_id, kinds).unwrap()
}

/// Applies an object.
pub(crate) async fn apply(target: &Kubernetes, object: &Value, rule: NamespaceRule) -> Result<Applied, TargetError> {
    let text = RawValue::from_string(object.to_string()).unwrap();
    let manifest = Manifest::parse(&text, None).unwrap();
    target.apply(&manifest, rule).await
}

/// A config map.
pub(crate) fn config_map(namespace: &str, name: &str, data: &Value) -> Value {
    json!({"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":name,"namespace":namespace},"data":data})
}

/// A name that no other test uses.
pub(crate) fn namespace(stem: &str) -> String {
    format!("{stem}-{}", unique())
}

/// Names an object.
pub(crate) fn reference(api_version: &str, kind: &str, namespace: &str, name: &str) -> ObjectRef {
    ObjectRef {
        api_version: api_version.into(),
        kind: kind.into(),
        namespace: namespace.into(),
        name: name.into(),
        ..ObjectRef::default()
    }
}

fn admin() -> (&'static ApiServer, Kubernetes) {
    let server = ApiServer::shared();
    (server, target(server.kubeconfig()))
}

#[tokio::test]
#[ignore = "needs a Kubernetes API server: set KUBEBUILDER_ASSETS (tests/run does)"]
async fn an_object_is_applied_updated_and_deleted() {
    let (server, target) = admin();
    let namespace = namespace("life");
    let path = format!("/api/v1/namespaces/{namespace}/configmaps/a");
    let applied =
        apply(&target, &config_map(&namespace, "a", &json!({"k": "1"})), NamespaceRule::Managed).await.unwrap();
    let live = server.get(&path);
    assert_eq!(live["metadata"]["uid"], applied.reference.uid);
    assert_eq!(live["metadata"]["labels"]["app.vworkspace.io/managed-by"], "control-plane");
    assert_eq!(live["metadata"]["labels"]["app.vworkspace.io/cluster-id"], CLUSTER);
    assert_eq!(live["metadata"]["managedFields"][0]["manager"], "vworkspace-agent");
    assert_eq!(live["metadata"]["managedFields"][0]["operation"], "Apply");
    assert_eq!(applied.readiness, Readiness::Silent("nothing reports on this kind here"));

    apply(&target, &config_map(&namespace, "a", &json!({"k": "2"})), NamespaceRule::Managed).await.unwrap();
    assert_eq!(server.get(&path)["data"], json!({"k": "2"}));
    // What a manifest does not name any more goes away.
    apply(&target, &config_map(&namespace, "a", &json!({"other": "3"})), NamespaceRule::Managed).await.unwrap();
    assert_eq!(server.get(&path)["data"], json!({"other": "3"}));

    let object = reference("v1", "ConfigMap", &namespace, "a");
    assert_eq!(target.delete(&object, NamespaceRule::Managed).await.unwrap(), Deleted { note: None });
    assert_eq!(server.request(Method::GET, &path, None).0, 404);
}

#[tokio::test]
#[ignore = "needs a Kubernetes API server: set KUBEBUILDER_ASSETS (tests/run does)"]
async fn deleting_what_is_not_there_is_done_already() {
    let (server, target) = admin();
    let namespace = namespace("gone");
    let object = reference("v1", "ConfigMap", &namespace, "nothing");
    assert!(target.delete(&object, NamespaceRule::Managed).await.is_ok(), "not even the namespace is there");
    assert_eq!(server.request(Method::GET, &format!("/api/v1/namespaces/{namespace}"), None).0, 404);
    server.create_namespace(&namespace, &json!({"managed-by": "vworkspace"}));
    assert!(target.delete(&object, NamespaceRule::Managed).await.is_ok());
}

#[tokio::test]
#[ignore = "needs a Kubernetes API server: set KUBEBUILDER_ASSETS (tests/run does)"]
async fn deleting_what_has_finalizers_says_that_it_takes_time() {
    let (server, target) = admin();
    let namespace = namespace("finalizer");
    server.create_namespace(&namespace, &json!({"managed-by": "vworkspace"}));
    let mut object = config_map(&namespace, "a", &json!({}));
    object["metadata"]["finalizers"] = json!(["it.example/wait"]);
    server.create(&format!("/api/v1/namespaces/{namespace}/configmaps"), &object);
    let deleted = target.delete(&reference("v1", "ConfigMap", &namespace, "a"), NamespaceRule::Managed).await.unwrap();
    assert!(deleted.note.unwrap().contains("finalizers"));
}

#[tokio::test]
#[ignore = "needs a Kubernetes API server: set KUBEBUILDER_ASSETS (tests/run does)"]
async fn a_conflict_names_the_field_and_its_manager_and_changes_nothing() {
    let (server, target) = admin();
    let namespace = namespace("conflict");
    server.create_namespace(&namespace, &json!({"managed-by": "vworkspace"}));
    let path = format!("/api/v1/namespaces/{namespace}/configmaps/a");
    let theirs = config_map(&namespace, "a", &json!({"app.io.name": "theirs", "free": "x"})).to_string().into_bytes();
    let (status, answer) = server.request_as(
        Method::PATCH,
        &format!("{path}?fieldManager=somebody-else"),
        "application/apply-patch+yaml",
        theirs,
    );
    assert_eq!(status, 201, "{answer}");
    let error = apply(&target, &config_map(&namespace, "a", &json!({"app.io.name": "ours"})), NamespaceRule::Managed)
        .await
        .unwrap_err();
    let TargetError::Conflict(conflicts) = &error else { panic!("{error:?}") };
    let expected = FieldConflict { field: ".data.app.io.name".into(), manager: "somebody-else".into() };
    assert_eq!(conflicts, &[expected]);
    assert!(!error.to_string().contains("ours"), "{error}");
    let live = server.get(&path);
    assert_eq!(live["data"]["app.io.name"], "theirs");
    assert_eq!(live["metadata"]["labels"], Value::Null);
}

#[tokio::test]
#[ignore = "needs a Kubernetes API server: set KUBEBUILDER_ASSETS (tests/run does)"]
async fn a_missing_namespace_is_made_with_our_label() {
    let (server, target) = admin();
    for rule in [NamespaceRule::Managed, NamespaceRule::Listed] {
        let namespace = namespace("made");
        apply(&target, &config_map(&namespace, "a", &json!({})), rule).await.unwrap();
        let made = server.get(&format!("/api/v1/namespaces/{namespace}"));
        assert_eq!(made["metadata"]["labels"]["managed-by"], "vworkspace");
    }
}

#[tokio::test]
#[ignore = "needs a Kubernetes API server: set KUBEBUILDER_ASSETS (tests/run does)"]
async fn a_namespace_of_somebody_else_is_used_only_when_it_is_listed() {
    let (server, target) = admin();
    let namespace = namespace("theirs");
    server.create_namespace(&namespace, &json!({"managed-by": "somebody"}));
    let object = config_map(&namespace, "a", &json!({}));
    let named = reference("v1", "ConfigMap", &namespace, "a");
    let is_refused = |error: TargetError| matches!(error, TargetError::NamespaceNotManaged(name) if name == namespace);
    assert!(is_refused(apply(&target, &object, NamespaceRule::Managed).await.unwrap_err()));
    apply(&target, &object, NamespaceRule::Listed).await.unwrap();
    assert!(is_refused(target.delete(&named, NamespaceRule::Managed).await.unwrap_err()));
    target.delete(&named, NamespaceRule::Listed).await.unwrap();
    let labels = server.get(&format!("/api/v1/namespaces/{namespace}"))["metadata"]["labels"].clone();
    assert_eq!(labels["managed-by"], "somebody", "a listed namespace is used as it is");
}

#[tokio::test]
#[ignore = "needs a Kubernetes API server: set KUBEBUILDER_ASSETS (tests/run does)"]
async fn a_namespace_as_an_object_is_judged_as_the_namespace_it_is() {
    let (server, target) = admin();
    let live = |name: &str| server.get(&format!("/api/v1/namespaces/{name}"))["metadata"].clone();
    let object = |name: &str, labels: &Value| json!({"apiVersion":"v1","kind":"Namespace","metadata":{"name":name,"labels":labels}});
    let theirs = namespace("object-theirs");
    server.create_namespace(&theirs, &json!({}));
    let grab = object(&theirs, &json!({"managed-by": "vworkspace"}));
    let named = reference("v1", "Namespace", "", &theirs);
    for error in [
        apply(&target, &grab, NamespaceRule::Managed).await.unwrap_err(),
        target.delete(&named, NamespaceRule::Managed).await.unwrap_err(),
    ] {
        assert!(matches!(&error, TargetError::NamespaceNotManaged(name) if *name == theirs), "{error:?}");
    }
    assert_eq!(live(&theirs)["labels"]["managed-by"], Value::Null, "it was not made ours");
    assert_eq!(live(&theirs)["deletionTimestamp"], Value::Null);

    // One that is listed is used as it is.
    apply(&target, &object(&theirs, &json!({"a": "1"})), NamespaceRule::Listed).await.unwrap();
    assert_eq!((&live(&theirs)["labels"]["a"], &live(&theirs)["labels"]["managed-by"]), (&json!("1"), &Value::Null));
    target.delete(&named, NamespaceRule::Listed).await.unwrap();
    assert!(live(&theirs)["deletionTimestamp"].is_string());

    // A new one is ours, whatever it says itself, and stays ours.
    for rule in [NamespaceRule::Managed, NamespaceRule::Listed] {
        let ours = namespace("object-ours");
        for labels in [json!({"managed-by": "somebody"}), json!({"a": "1"}), json!({})] {
            apply(&target, &object(&ours, &labels), rule).await.unwrap();
            assert_eq!(live(&ours)["labels"]["managed-by"], "vworkspace", "{labels}");
        }
        target.delete(&reference("v1", "Namespace", "", &ours), rule).await.unwrap();
        assert!(live(&ours)["deletionTimestamp"].is_string());
    }
    let missing = reference("v1", "Namespace", "", &namespace("object-missing"));
    assert!(target.delete(&missing, NamespaceRule::Managed).await.is_ok());
}

#[tokio::test]
#[ignore = "needs a Kubernetes API server: set KUBEBUILDER_ASSETS (tests/run does)"]
async fn a_namespace_that_is_being_deleted_is_waited_for() {
    let (server, target) = admin();
    let namespace = namespace("ending");
    server.create_namespace(&namespace, &json!({"managed-by": "vworkspace"}));
    server.request(Method::DELETE, &format!("/api/v1/namespaces/{namespace}"), None);
    let error = apply(&target, &config_map(&namespace, "a", &json!({})), NamespaceRule::Managed).await.unwrap_err();
    assert!(matches!(&error, TargetError::Stuck(text) if text.contains("being deleted")), "{error:?}");
}

#[tokio::test]
#[ignore = "needs a Kubernetes API server: set KUBEBUILDER_ASSETS (tests/run does)"]
async fn an_admission_that_is_away_is_no_api_server_that_is_away() {
    let (server, target) = admin();
    let namespace = namespace("admission");
    server.create_namespace(&namespace, &json!({"managed-by": "vworkspace", "it": namespace}));
    let webhook = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": namespace},
        "webhooks": [{
            "name": "away.it.example", "failurePolicy": "Fail", "sideEffects": "None",
            "admissionReviewVersions": ["v1"], "clientConfig": {"url": "https://127.0.0.1:1/"},
            "namespaceSelector": {"matchLabels": {"it": namespace}},
            "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["*"], "resources": ["configmaps"]}],
        }],
    });
    server.create("/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations", &webhook);
    let object = config_map(&namespace, "a", &json!({}));
    let mut error = None;
    // The API server learns of its webhooks a moment after they are made.
    for _ in 0..300 {
        error = apply(&target, &object, NamespaceRule::Managed).await.err();
        // One that is held up counts as not ready itself.
        if matches!(error, Some(TargetError::Stuck(_))) {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    assert!(matches!(&error, Some(TargetError::Stuck(text)) if text.contains("webhook")), "{error:?}");
}

#[tokio::test]
#[ignore = "needs a Kubernetes API server: set KUBEBUILDER_ASSETS (tests/run does)"]
async fn an_unknown_kind_is_named() {
    let (_, target) = admin();
    for (api_version, kind) in [("v1", "Nothing"), ("nobody.example/v1", "Nothing"), ("apps/v9", "Deployment")] {
        let object =
            json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": "a", "namespace": "default"}});
        for error in [
            apply(&target, &object, NamespaceRule::Listed).await.unwrap_err(),
            target.delete(&reference(api_version, kind, "default", "a"), NamespaceRule::Listed).await.unwrap_err(),
        ] {
            assert!(
                matches!(&error, TargetError::UnknownKind { api_version: version, kind: named } if version == api_version && named == kind),
                "{error:?}"
            );
        }
    }
}

#[tokio::test]
#[ignore = "needs a Kubernetes API server: set KUBEBUILDER_ASSETS (tests/run does)"]
async fn a_kind_says_whether_it_has_namespaces() {
    let (server, target) = admin();
    server.apply_crds();
    let mut cluster =
        json!({"apiVersion": "ops.vworkspace.io/v1alpha1", "kind": "Cluster", "metadata": {"name": namespace("c")}});
    let applied = apply(&target, &cluster, NamespaceRule::Managed).await.unwrap();
    assert_eq!((applied.reference.namespace.as_str(), applied.reference.generation), ("", Some(1)));
    cluster["metadata"]["namespace"] = json!("default");
    let error = apply(&target, &cluster, NamespaceRule::Managed).await.unwrap_err();
    assert!(matches!(&error, TargetError::Invalid(text) if text.contains("has no namespaces")), "{error:?}");
    let bare = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}});
    let error = apply(&target, &bare, NamespaceRule::Managed).await.unwrap_err();
    assert!(matches!(&error, TargetError::Invalid(text) if text == "metadata.namespace is missing"), "{error:?}");
}

#[tokio::test]
#[ignore = "needs a Kubernetes API server: set KUBEBUILDER_ASSETS (tests/run does)"]
async fn a_refused_object_is_explained_without_its_values() {
    let (_, target) = admin();
    let namespace = namespace("invalid");
    let wrong = [
        json!({"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a","namespace":namespace},"data":{"geheim key!":"geheim"}}),
        json!({"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a","namespace":namespace},"data":{"a":{"geheim":"geheim"}}}),
        json!({"apiVersion":"v1","kind":"Service","metadata":{"name":"a","namespace":namespace},"spec":{"ports":[{"port":80}],"type":"geheim"}}),
        json!({"apiVersion":"rbac.authorization.k8s.io/v1","kind":"Role","metadata":{"name":"a","namespace":namespace},"rules":[{"verbs":[],"resources":["geheim"],"apiGroups":[""]}]}),
    ];
    for object in wrong {
        let error = apply(&target, &object, NamespaceRule::Managed).await.unwrap_err();
        let TargetError::Invalid(text) = &error else { panic!("{error:?}") };
        assert!(!text.is_empty() && text.chars().count() <= 401, "{text}");
        let values = text.replace("data[geheim key!]", "");
        assert!(!values.contains("geheim"), "{text}");
    }
}

#[tokio::test]
#[ignore = "needs a Kubernetes API server: set KUBEBUILDER_ASSETS (tests/run does)"]
async fn what_our_account_may_not_do_is_said_in_the_server_s_words() {
    let server = ApiServer::shared();
    let user = namespace("limited");
    server.allow(
        &user,
        &json!([
            {"apiGroups": [""], "resources": ["namespaces"], "verbs": ["get"]},
            {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "create", "patch"]},
        ]),
    );
    let target = target(server.kubeconfig_for(&user, "nobody"));
    let there = namespace("rbac");
    server.create_namespace(&there, &json!({"managed-by": "vworkspace"}));
    apply(&target, &config_map(&there, "a", &json!({})), NamespaceRule::Managed).await.unwrap();

    let secret = json!({"apiVersion":"v1","kind":"Secret","metadata":{"name":"a","namespace":there}});
    let error = apply(&target, &secret, NamespaceRule::Managed).await.unwrap_err();
    let TargetError::Forbidden(text) = &error else { panic!("{error:?}") };
    assert!(text.contains(&user) && text.contains("cannot patch resource \"secrets\""), "{text}");
    let named = reference("v1", "ConfigMap", &there, "a");
    assert!(matches!(target.delete(&named, NamespaceRule::Managed).await, Err(TargetError::Forbidden(_))));
    let error =
        apply(&target, &config_map(&namespace("no"), "a", &json!({})), NamespaceRule::Managed).await.unwrap_err();
    assert!(matches!(&error, TargetError::Forbidden(text) if text.contains("namespaces")), "{error:?}");
}

#[tokio::test]
#[ignore = "needs a Kubernetes API server: set KUBEBUILDER_ASSETS (tests/run does)"]
async fn a_namespace_says_which_operations_it_does() {
    let (server, target) = admin();
    server.apply_crds();
    let namespace = namespace("operations");
    server.create_namespace(&namespace, &json!({"managed-by": "vworkspace"}));
    let operation = |kind: &str| {
        json!({
            "apiVersion": "ops.vworkspace.io/v1alpha1", "kind": "Operation",
            "metadata": {"name": kind.to_lowercase(), "namespace": namespace}, "spec": {"type": kind},
        })
    };
    let annotate = |list: &Value| {
        let path = format!("/api/v1/namespaces/{namespace}");
        let patch = json!({"metadata": {"annotations": {"ops.vworkspace.io/allowed-types": list}}});
        let (code, answer) = server.request(Method::PATCH, &path, Some(&patch));
        assert_eq!(code, 200, "{answer}");
    };
    apply(&target, &operation("RunCommand"), NamespaceRule::Managed).await.unwrap();
    annotate(&json!("Restore, backup"));
    for rule in [NamespaceRule::Managed, NamespaceRule::Listed] {
        apply(&target, &operation("Backup"), rule).await.unwrap();
        let error = apply(&target, &operation("Runbook"), rule).await.unwrap_err();
        assert_eq!(error.reason(), "OperationNotAllowed");
        assert!(error.to_string().contains("ops.vworkspace.io/allowed-types"), "{error}");
    }
    let path = format!("/apis/ops.vworkspace.io/v1alpha1/namespaces/{namespace}/operations/runbook");
    assert_eq!(server.request(Method::GET, &path, None).0, 404);
    // Whatever the list, other kinds are applied and what is there can be deleted.
    apply(&target, &config_map(&namespace, "a", &json!({})), NamespaceRule::Managed).await.unwrap();
    let there = reference("ops.vworkspace.io/v1alpha1", "Operation", &namespace, "runcommand");
    target.delete(&there, NamespaceRule::Managed).await.unwrap();
    annotate(&json!(""));
    assert!(apply(&target, &operation("Backup"), NamespaceRule::Managed).await.is_err());
    annotate(&Value::Null);
    apply(&target, &operation("Runbook"), NamespaceRule::Managed).await.unwrap();
}
