//! The Kubernetes target: credentials and configuration, against a real API server.

use std::fs;
use std::path::Path;

use k8s_openapi::ByteString;
use pullet::net::PlainHttp;
use pullet::target::kubernetes::{Access, AccessError, Kubernetes, Surroundings, Wish};
use pullet::target::{NamespaceRule, Target, TargetError};
use serde_json::json;

use crate::apiserver::{ApiServer, TOKENS, unique};
use crate::kubernetes::{CLUSTER, access, apply, config_map, namespace, target};

fn everything() -> serde_json::Value {
    json!([{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}])
}

fn base64(path: &Path) -> String {
    serde_json::to_value(ByteString(fs::read(path).unwrap())).unwrap().as_str().unwrap().to_owned()
}

#[tokio::test]
#[ignore = "needs a Kubernetes API server: set KUBEBUILDER_ASSETS (tests/run does)"]
async fn the_context_decides_and_certificates_may_be_data_or_files() {
    let server = ApiServer::shared();
    let directory = tempfile::tempdir().unwrap();
    // The admin's certificate lies beside the kubeconfig that the server wrote.
    let admin = fs::read_to_string(server.kubeconfig()).unwrap();
    let stem = admin.split("client-certificate: ").nth(1).unwrap().split(".crt").next().unwrap();
    let file = |name: &str| server.directory().join(name);
    let text = format!(
        "current-context: nobody\nclusters:\n- name: c\n  cluster:\n    server: {}\n    \
         certificate-authority-data: {}\ncontexts:\n- {{name: nobody, context: {{cluster: c, user: nobody}}}}\n- {{name: \
         admin, context: {{cluster: c, user: admin}}}}\nusers:\n- name: nobody\n  user: {{token: {}}}\n- name: admin\n  \
         user:\n    client-certificate-data: {}\n    client-key: {}\n",
        server.url("/"),
        base64(&file("ca.crt")),
        TOKENS[1].0,
        base64(&file(&format!("{stem}.crt"))),
        file(&format!("{stem}.key")).display(),
    );
    let path = directory.path().join("config");
    fs::write(&path, text).unwrap();
    let open = |context: Option<&str>| {
        let wish = Wish {
            kubeconfig: Some(path.clone()),
            context: context.map(str::to_owned),
            foreground_root: false,
            plain_http: PlainHttp::Refused,
        };
        Access::find(&wish, &Surroundings { variable: &|_| None, root: "/".into() })
    };
    let object = config_map(&namespace("context"), "a", &json!({}));
    let nobody = Kubernetes::open(&open(None).unwrap(), CLUSTER, Vec::new()).unwrap();
    let error = apply(&nobody, &object, NamespaceRule::Managed).await.unwrap_err();
    assert!(matches!(&error, TargetError::Forbidden(text) if text.contains(TOKENS[1].1)), "{error:?}");
    let admin = Kubernetes::open(&open(Some("admin")).unwrap(), CLUSTER, Vec::new()).unwrap();
    apply(&admin, &object, NamespaceRule::Managed).await.unwrap();
    assert!(admin.describe().starts_with("kubernetes https://127.0.0.1:"));
    let Err(AccessError::UnknownContext { known, .. }) = open(Some("third")) else { panic!("found a third context") };
    assert_eq!(known, ["nobody", "admin"]);
}

#[tokio::test]
#[ignore = "needs a Kubernetes API server: set KUBEBUILDER_ASSETS (tests/run does)"]
async fn a_token_file_is_followed_as_it_changes() {
    let server = ApiServer::shared();
    server.allow(TOKENS[0].1, &everything());
    let token = server.directory().join(format!("token-{}", unique()));
    fs::write(&token, "not-a-token-of-anybody").unwrap();
    let name = token.file_name().unwrap().to_str().unwrap();
    let target = target(server.kubeconfig_with(server.port(), &format!("{{tokenFile: {name}}}")));
    let object = config_map(&namespace("token"), "a", &json!({}));
    let error = apply(&target, &object, NamespaceRule::Managed).await.unwrap_err();
    assert!(matches!(error, TargetError::Unavailable(_)), "{error:?}");
    // After a 401 the file is looked at at once.
    fs::write(&token, TOKENS[0].0).unwrap();
    apply(&target, &object, NamespaceRule::Managed).await.unwrap();
    // A token that still works is replaced within the interval.
    let fresh = token.with_extension("new");
    fs::write(&fresh, format!("{}\n", TOKENS[1].0)).unwrap();
    fs::rename(&fresh, &token).unwrap();
    tokio::time::sleep(pullet::limits::CREDENTIAL_CHECK).await;
    let error = apply(&target, &object, NamespaceRule::Managed).await.unwrap_err();
    assert!(matches!(&error, TargetError::Forbidden(text) if text.contains(TOKENS[1].1)), "{error:?}");
}

#[tokio::test]
#[ignore = "needs a Kubernetes API server: set KUBEBUILDER_ASSETS (tests/run does)"]
async fn a_pod_uses_its_service_account() {
    let server = ApiServer::shared();
    let space = namespace("pod");
    server.create_namespace(&space, &json!({"managed-by": "vworkspace"}));
    let accounts = format!("/api/v1/namespaces/{space}/serviceaccounts");
    server.create(&accounts, &json!({"apiVersion":"v1","kind":"ServiceAccount","metadata":{"name":"agent"}}));
    let request =
        json!({"apiVersion":"authentication.k8s.io/v1","kind":"TokenRequest","spec":{"expirationSeconds":3600}});
    let token = server.create(&format!("{accounts}/agent/token"), &request)["status"]["token"].clone();
    server.allow(&format!("system:serviceaccount:{space}:agent"), &everything());
    let root = tempfile::tempdir().unwrap();
    let mount = root.path().join("var/run/secrets/kubernetes.io/serviceaccount");
    fs::create_dir_all(&mount).unwrap();
    fs::write(mount.join("token"), token.as_str().unwrap()).unwrap();
    fs::write(mount.join("ca.crt"), server.authority_pem()).unwrap();
    let variable = |name: &str| match name {
        "KUBERNETES_SERVICE_HOST" => Some("127.0.0.1".to_owned()),
        "KUBERNETES_SERVICE_PORT" => Some(server.port().to_string()),
        _ => None,
    };
    let wish = Wish { kubeconfig: None, context: None, foreground_root: false, plain_http: PlainHttp::Refused };
    let access = Access::find(&wish, &Surroundings { variable: &variable, root: root.path().to_owned() }).unwrap();
    let target = Kubernetes::open(&access, CLUSTER, Vec::new()).unwrap();
    apply(&target, &config_map(&space, "a", &json!({})), NamespaceRule::Managed).await.unwrap();
}

#[tokio::test]
#[ignore = "needs a Kubernetes API server: set KUBEBUILDER_ASSETS (tests/run does)"]
async fn a_server_with_another_ca_gets_nothing() {
    let server = ApiServer::shared();
    let kubeconfig = server.kubeconfig();
    let text = fs::read_to_string(&kubeconfig).unwrap().replace("certificate-authority: ca.crt", "x-ignored: y");
    fs::write(&kubeconfig, text).unwrap();
    let error = apply(&target(kubeconfig), &config_map("default", "a", &json!({})), NamespaceRule::Listed).await;
    let Err(TargetError::Unavailable(source)) = error else { panic!("{error:?}") };
    assert!(source.to_string().contains("TLS"), "{source}");
}

#[test]
fn a_missing_or_malformed_file_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config");
    assert!(matches!(access(path.clone()), Err(AccessError::File(file, _)) if file == path));
    fs::write(&path, "a: [").unwrap();
    assert!(matches!(access(path.clone()), Err(AccessError::NotYaml(..))));
    let large = " ".repeat(usize::try_from(pullet::limits::KUBECONFIG_BYTES).unwrap());
    fs::write(&path, &large).unwrap();
    assert!(matches!(access(path.clone()), Err(AccessError::NoContext(_))), "just the bound is read");
    fs::write(&path, format!("{large} ")).unwrap();
    assert!(matches!(access(path.clone()), Err(AccessError::TooLong(..))));
    let text = "current-context: x\ncontexts:\n- {name: x, context: {cluster: c}}\nclusters:\n- name: c\n  cluster: \
                {server: 'https://a', certificate-authority: no-such.crt}\n";
    fs::write(&path, text).unwrap();
    let Err(AccessError::File(file, _)) = access(path) else { panic!("read a file that is not there") };
    assert_eq!(file, directory.path().join("no-such.crt"));
}
