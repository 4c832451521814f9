//! What an API server has to be told of the webhook: the configuration, and the Service where there has to be one.

use super::Listen;
use super::listen::SERVICE;
use super::server::PATH;
use crate::protocol::{APPLICATION_INSTANCE, OPERATION};
use crate::trust::policy::{OWN_ACCOUNT, OWN_NAMESPACE, Policy};

const CONFIGURATION: &str = include_str!("webhook.yaml");

const KINDS: &str = include_str!("webhook-kinds.yaml");

const CONDITIONS: &str = "      - name: not-the-agent
        expression: >-
          request.userInfo.username != '@ACCOUNT@'
      - name: not-the-cluster-itself
        expression: >-
          request.operation != 'DELETE' || !(request.userInfo.username in ['system:kube-controller-manager',
          'system:serviceaccount:kube-system:generic-garbage-collector',
          'system:serviceaccount:kube-system:namespace-controller'])";

/// The objects as YAML, with comments.
#[must_use]
pub fn text(listen: &Listen, policy: &Policy) -> String {
    let mut text = CONFIGURATION.to_owned();
    let own = [APPLICATION_INSTANCE, OPERATION];
    let mut rules = Vec::new();
    for kind in policy.kinds() {
        if !own.iter().any(|(version, name)| kind.matches(version, name)) {
            rules.push(format!(
                "      - apiGroups: [\"{}\"]\n        apiVersions: [\"*\"]\n        operations: [\"CREATE\", \"UPDATE\", \
                 \"DELETE\"]\n        resources: [\"{}\"]",
                kind.group,
                kind.plural()
            ));
        }
    }
    if !rules.is_empty() {
        text.push_str(KINDS);
    }
    let client = if listen.is_behind_service() {
        let service = format!(
            "---\n# The way to the agent's pod.\napiVersion: v1\nkind: Service\nmetadata:\n  name: {SERVICE}\n  namespace: \
             {OWN_NAMESPACE}\nspec:\n  selector:\n    app.kubernetes.io/name: pullet\n  ports:\n    - port: 443\n      \
             targetPort: {}\n",
            listen.address().port()
        );
        text.push_str(&service);
        format!(
            "      service:\n        name: {SERVICE}\n        namespace: {OWN_NAMESPACE}\n        port: 443\n        path: {PATH}"
        )
    } else {
        format!("      url: https://{listen}{PATH}")
    };
    for (mark, insertion) in [
        ("@CLIENT@", client.as_str()),
        ("@CONDITIONS@", CONDITIONS),
        ("@ACCOUNT@", OWN_ACCOUNT),
        ("@RULES@", &rules.join("\n")),
    ] {
        text = text.replace(mark, insertion);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{Listen, text};
    use crate::protocol::GroupKind;
    use crate::target::kubernetes::list_as_json;
    use crate::trust::policy::Policy;
    use serde_json::{Value, json};

    fn objects(listen: &str, kinds: &[&str]) -> Value {
        let kinds = kinds.iter().map(|kind| GroupKind::parse(kind).unwrap()).collect();
        let text = text(&Listen::parse(listen).unwrap(), &Policy::new(kinds, Vec::new()));
        assert!(!text.contains("@C") && !text.contains("@A") && !text.contains("@R"), "{text}");
        // Our reader takes every scalar for a text; those of YAML are numbers where they look like it.
        serde_json::from_str::<Value>(&list_as_json(&text).unwrap()).unwrap()["items"].take()
    }

    #[test]
    fn an_address_is_called_by_its_url() {
        let items = objects("127.0.0.1:9443", &[]);
        assert_eq!(items.as_array().unwrap().len(), 1);
        let hooks = &items[0]["webhooks"];
        assert_eq!(hooks[0]["clientConfig"], json!({"url": "https://127.0.0.1:9443/validate"}));
        assert_eq!((hooks.as_array().unwrap().len(), &hooks[0]["failurePolicy"]), (1, &json!("Fail")));
        assert_eq!(objects("[::1]:1", &[])[0]["webhooks"][0]["clientConfig"]["url"], "https://[::1]:1/validate");
    }

    #[test]
    fn all_addresses_are_called_through_the_service_and_further_kinds_by_their_plurals() {
        let items =
            objects("0.0.0.0:9443", &["/ConfigMap", "networking.k8s.io/Ingress", "ops.vworkspace.io/Operation"]);
        let hooks = &items[0]["webhooks"];
        let service = json!({"service": {"name": "pullet-webhook", "namespace": "vworkspace-system", "port": "443", "path": "/validate"}});
        for hook in hooks.as_array().unwrap() {
            assert_eq!(hook["clientConfig"], service);
            assert_eq!(hook["matchConditions"].as_array().unwrap().len(), 2);
        }
        let resources: Vec<_> = hooks[1]["rules"]
            .as_array()
            .unwrap()
            .iter()
            .map(|rule| (&rule["apiGroups"][0], &rule["resources"][0]))
            .collect();
        assert_eq!(resources, [(&json!(""), &json!("configmaps")), (&json!("networking.k8s.io"), &json!("ingresses"))]);
        assert_eq!(items[1]["spec"]["ports"], json!([{"port": "443", "targetPort": "9443"}]));
    }
}
