//! P1.5.2, decision 0006: what a job may do here.

use serde_json::json;

use super::{applied, assert_failed, assert_sound, done, setup, start, succeeded};
use crate::agent::{Agent, Setup};
use crate::testbed::job::{application_instance, config_map, operation};
use crate::testbed::{Job, Testbed};

/// The defaults, without the config maps that other tests allow.
fn strict(testbed: &Testbed) -> Setup {
    let setup = Agent::of(testbed);
    let directory = setup.directory();
    setup.flag("--target", "directory").flag("--directory", directory).flag("--wait", "1")
}

/// A job may apply and delete two kinds; the error of another one names the flag that would allow it.
#[test]
fn a_kind_that_is_not_allowed_is_refused_with_the_setting_that_would_allow_it() {
    let testbed = Testbed::start();
    let agent = strict(&testbed).spawn();
    for job in [Job::apply(config_map("shop", "a", "1")), Job::delete("v1", "ConfigMap", "shop", "a")] {
        let result = done(&testbed, job);
        assert_failed(&result, "KindNotAllowed");
        assert!(result["error"].as_str().unwrap().contains("--allow-kind /ConfigMap"), "{result}");
        assert_eq!(result.get("appliedRef"), None);
    }
    // The same name in another group is another kind.
    let mut impostor = application_instance("shop", "wiki");
    impostor["apiVersion"] = json!("example.org/v1");
    assert_failed(&done(&testbed, Job::apply(impostor)), "KindNotAllowed");
    assert_eq!(std::fs::read_dir(agent.directory()).unwrap().count(), 0);
    assert!(succeeded(&done(&testbed, Job::apply(application_instance("shop", "wiki")))));
    assert!(succeeded(&done(&testbed, Job::apply(operation("shop", "backup")))));
    assert_sound(&testbed);
}

/// The owner of the node can allow more, kind by kind.
#[test]
fn an_allowed_kind_is_applied() {
    let testbed = Testbed::start();
    let setup = strict(&testbed).flag("--allow-kind", "/ConfigMap").flag("--allow-kind", "apps/Deployment");
    let agent = setup.spawn();
    let mut deployment = config_map("shop", "web", "1");
    deployment["apiVersion"] = json!("apps/v1");
    deployment["kind"] = json!("Deployment");
    assert!(succeeded(&done(&testbed, Job::apply(config_map("shop", "a", "1")))));
    assert!(succeeded(&done(&testbed, Job::apply(deployment.clone()))));
    assert!(applied(&agent.directory(), "Deployment", "web").is_some());
    deployment["kind"] = json!("DaemonSet");
    assert_failed(&done(&testbed, Job::apply(deployment)), "KindNotAllowed");
    assert_sound(&testbed);
}

/// System namespaces are closed unless they are named in full, and the agent's own always is.
#[test]
fn system_namespaces_are_closed() {
    let testbed = Testbed::start();
    let agent = start(&testbed);
    for namespace in ["kube-system", "kube-public", "default", "flux-system", "cattle-fleet", "vworkspace-system"] {
        assert_failed(&done(&testbed, Job::apply(config_map(namespace, "a", "1"))), "NamespaceNotAllowed");
        let delete = Job::delete("v1", "ConfigMap", namespace, "a");
        assert_failed(&done(&testbed, delete), "NamespaceNotAllowed");
    }
    assert_eq!(std::fs::read_dir(agent.directory()).unwrap().count(), 0);
    assert!(succeeded(&done(&testbed, Job::apply(config_map("shop", "a", "1")))));
    assert_sound(&testbed);
}

/// With `--allow-namespace` the named ones are open and no others; a prefix opens no system namespace.
#[test]
fn allowed_namespaces_are_the_only_ones() {
    let testbed = Testbed::start();
    let setup = ["clinic-*", "default", "kube-*", "vworkspace-system"]
        .iter()
        .fold(setup(&testbed), |setup, namespace| setup.flag("--allow-namespace", namespace));
    let _agent = setup.spawn();
    for (namespace, allowed) in [
        ("clinic-7", true),
        ("default", true),
        ("clinic", false),
        ("shop", false),
        ("kube-system", false),
        ("vworkspace-system", false),
    ] {
        let result = done(&testbed, Job::apply(config_map(namespace, "a", "1")));
        assert_eq!(succeeded(&result), allowed, "{namespace}: {result}");
        if !allowed {
            assert_failed(&result, "NamespaceNotAllowed");
            assert!(result["error"].as_str().unwrap().contains(namespace), "{result}");
        }
    }
    assert_sound(&testbed);
}

/// An application that is released elsewhere than it lies reaches as far as that.
#[test]
fn the_namespace_of_a_release_is_looked_at_as_well() {
    let testbed = Testbed::start();
    let agent = setup(&testbed).flag("--allow-namespace", "shop").flag("--allow-namespace", "wiki").spawn();
    let released = |name: &str, namespace: serde_json::Value| {
        let mut manifest = application_instance("shop", name);
        manifest["spec"]["release"] = json!({"namespace": namespace});
        manifest
    };
    assert!(succeeded(&done(&testbed, Job::apply(released("good", json!("wiki"))))));
    assert_failed(&done(&testbed, Job::apply(released("bad", json!("kube-system")))), "NamespaceNotAllowed");
    let intent = json!({"applicationInstance": released("bad", json!("other"))});
    assert_failed(&done(&testbed, Job::intent("ensure-application-instance", intent)), "NamespaceNotAllowed");
    assert_failed(&done(&testbed, Job::apply(released("bad", json!(["kube-system"])))), "InvalidManifest");
    let mut targeted = operation("shop", "bad");
    targeted["spec"]["targetRef"] = json!({"namespace": "vworkspace-system"});
    let intent = Job::intent("request-operation", json!({"operation": targeted}));
    assert_failed(&done(&testbed, intent), "NamespaceNotAllowed");
    assert_eq!(std::fs::read_dir(agent.directory()).unwrap().count(), 1);
    assert_sound(&testbed);
}

/// What would change the agent's own rights is closed whatever the owner allows.
#[test]
fn no_setting_opens_the_agents_own_rights() {
    let testbed = Testbed::start();
    let kinds = [
        "/Namespace",
        "ops.vworkspace.io/Cluster",
        "rbac.authorization.k8s.io/ClusterRoleBinding",
        "admissionregistration.k8s.io/ValidatingWebhookConfiguration",
    ];
    let _agent = kinds.iter().fold(setup(&testbed), |setup, kind| setup.flag("--allow-kind", kind)).spawn();
    for (api_version, kind, name) in [
        ("v1", "Namespace", "vworkspace-system"),
        ("ops.vworkspace.io/v1alpha1", "Cluster", "c1"),
        ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding", "pullet"),
        ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding", "vworkspace-agent-admin"),
        ("admissionregistration.k8s.io/v1", "ValidatingWebhookConfiguration", "any"),
    ] {
        let manifest = json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": name}});
        assert_failed(&done(&testbed, Job::apply(manifest)), "NeverAllowed");
        assert_failed(&done(&testbed, Job::delete(api_version, kind, "", name)), "NeverAllowed");
    }
    let other = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}});
    assert!(succeeded(&done(&testbed, Job::apply(other))));
    assert_sound(&testbed);
}

/// A chart is code: none is installed that the owner did not list.
#[test]
fn a_chart_is_installed_only_from_where_the_owner_allows() {
    let testbed = Testbed::start();
    let allowed = ["oci://registry.example/charts/*", "catalog:wiki"];
    let agent = allowed.iter().fold(strict(&testbed), |setup, chart| setup.flag("--allow-chart", chart)).spawn();
    let from = |name: &str, url: &str| {
        let mut manifest = application_instance("shop", name);
        manifest["spec"]["appRef"] = json!({"catalogId": "wiki"});
        manifest["spec"]["mode"] = json!("managed");
        manifest["spec"]["chart"] = json!({"sourceType": "oci", "url": url, "version": "1.2.3"});
        manifest
    };
    assert!(succeeded(&done(&testbed, Job::apply(from("good", "oci://registry.example/charts/wiki")))));
    let result = done(&testbed, Job::apply(from("bad", "oci://registry.example/charts-evil/wiki")));
    assert_failed(&result, "ChartNotAllowed");
    assert!(result["error"].as_str().unwrap().contains("--allow-chart"), "{result}");
    let intent = json!({"applicationInstance": from("bad", "oci://registry.example@evil.example/charts/wiki")});
    assert_failed(&done(&testbed, Job::intent("ensure-application-instance", intent)), "ChartNotAllowed");
    let mut placeholder = from("later", "oci://evil.example/wiki");
    placeholder["spec"]["mode"] = json!("placeholder");
    assert!(succeeded(&done(&testbed, Job::apply(placeholder))));
    assert!(applied(&agent.directory(), "ApplicationInstance", "bad").is_none());
    assert_sound(&testbed);
}

/// Whoever may read an object may read its values: what is secret does not belong there.
#[test]
fn secret_material_in_inline_values_is_refused_with_its_path() {
    let testbed = Testbed::start();
    let agent = strict(&testbed).spawn();
    let mut manifest = application_instance("shop", "wiki");
    manifest["spec"]["values"] = json!({"inline": {"db": [{"Password": "geheim"}]}});
    let result = done(&testbed, Job::apply(manifest.clone()));
    assert_failed(&result, "InlineSecretMaterialRejected");
    let error = result["error"].as_str().unwrap();
    assert!(error.contains("spec.values.inline.db[0].Password") && !error.contains("geheim"), "{error}");
    assert!(!agent.log().contains("geheim"));
    manifest["spec"]["values"]["inline"]["db"][0]["Password"] = json!("<set via externalSecret>");
    assert!(succeeded(&done(&testbed, Job::apply(manifest))));
    assert_sound(&testbed);
}

/// The owner chooses which operations can be requested, and whether a Secret may come in the open.
#[test]
fn operations_and_secrets_in_the_open_can_be_ruled_out() {
    let testbed = Testbed::start();
    let setup = strict(&testbed).flag("--allow-operation", "Backup").flag("--allow-kind", "/Secret");
    let agent = setup.switch("--require-encrypted-secrets").spawn();
    assert!(succeeded(&done(&testbed, Job::apply(operation("shop", "backup")))));
    let mut command = operation("shop", "command");
    command["spec"]["type"] = json!("RunCommand");
    let result = done(&testbed, Job::intent("request-operation", json!({"operation": command})));
    assert_failed(&result, "OperationNotAllowed");
    assert!(result["error"].as_str().unwrap().contains("--allow-operation"), "{result}");
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "a", "namespace": "shop"},
        "stringData": {"k": "geheim"}});
    assert_failed(&done(&testbed, Job::apply(secret)), "EncryptionRequired");
    assert!(succeeded(&done(&testbed, Job::delete("v1", "Secret", "shop", "a"))));
    assert!(applied(&agent.directory(), "Operation", "command").is_none());
    assert_sound(&testbed);
}
