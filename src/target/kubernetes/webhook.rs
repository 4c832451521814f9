//! The agent's webhook at the API server: its configuration, by name, and the namespaces of what is asked.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::Method;
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;

use super::api::segment;
use super::decode::{Items, Text, member};
use super::own::{Own, OwnError};
use crate::json;
use crate::limits;
use crate::protocol::{FIELD_MANAGER, NAMESPACE_LABEL};
use crate::trust::policy::{ALLOWED_TYPES_ANNOTATION, Space};

const CONFIGURATION: &str = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations/pullet";

/// What becomes of a patch: an item of a list is found by its name.
const STRATEGIC: &str = "application/strategic-merge-patch+json";

/// Hooks of the configuration: it is printed with two.
const HOOKS: usize = 8;

#[derive(Deserialize)]
struct Configuration<'a> {
    #[serde(borrow, default)]
    webhooks: Option<Items<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Hook<'a> {
    #[serde(borrow)]
    name: Text<'a>,
    #[serde(borrow)]
    client_config: Client<'a>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Client<'a> {
    #[serde(borrow, default)]
    ca_bundle: Text<'a>,
}

/// The patch that has each hook trust this; none where each of them does already.
fn patch(configuration: &[u8], bundle: &str) -> Result<Option<String>, OwnError> {
    const NONE: OwnError = OwnError::Unusable("the API server's answer is no configuration of webhooks");
    let configuration: Configuration<'_> = json::read(configuration).map_err(|_| NONE)?;
    let hooks: Vec<Hook<'_>> = configuration.webhooks.ok_or(NONE)?.first(HOOKS);
    if hooks.is_empty() {
        return Err(NONE);
    }
    let bundle = STANDARD.encode(bundle);
    if hooks.iter().all(|hook| hook.client_config.ca_bundle.0 == bundle) {
        return Ok(None);
    }
    let hooks: Vec<_> =
        hooks.iter().map(|hook| json!({"name": hook.name.0, "clientConfig": {"caBundle": bundle}})).collect();
    Ok(Some(json!({ "webhooks": hooks }).to_string()))
}

fn read_space(namespace: &[u8]) -> Result<Space, OwnError> {
    let namespace: &RawValue =
        json::read(namespace).map_err(|_| OwnError::Unusable("the API server's answer is no namespace"))?;
    let text = |path: [&str; 3]| -> Option<Text<'_>> { serde_json::from_str(member(namespace, &path)?.get()).ok() };
    let (label, value) = NAMESPACE_LABEL;
    Ok(Space {
        is_managed: text(["metadata", "labels", label]).is_some_and(|found| found.0 == value),
        allowed_types: text(["metadata", "annotations", ALLOWED_TYPES_ANNOTATION])
            .map(|list| list.cut(limits::CONDITION_TEXT_BYTES)),
    })
}

impl Own {
    /// Has API servers trust the certificates of this PEM where they call the webhook, and tells whether that is new.
    /// Nothing is written where it is so already. Blocks.
    ///
    /// # Errors
    /// As [`OwnError`] lists them; [`OwnError::Absent`] where nobody has configured the webhook.
    pub fn trust_webhook(&self, pem: &str) -> Result<bool, OwnError> {
        let limit = limits::WEBHOOK_CONFIGURATION_BYTES;
        let found = self.call(&Method::GET, CONFIGURATION, "", "", limit)?;
        let Some(patch) = patch(&found, pem)? else { return Ok(false) };
        let path = [CONFIGURATION, "?fieldManager=", FIELD_MANAGER].concat();
        self.call(&Method::PATCH, &path, STRATEGIC, &patch, limit)?;
        Ok(true)
    }

    /// What a namespace says of itself. Blocks.
    ///
    /// # Errors
    /// As [`OwnError`] lists them.
    pub fn space(&self, namespace: &str) -> Result<Space, OwnError> {
        let name = segment(namespace).map_err(|_| OwnError::Unusable("its name is none that a namespace can have"))?;
        let path = ["/api/v1/namespaces/", &name].concat();
        read_space(&self.call(&Method::GET, &path, "", "", limits::METADATA_BODY_BYTES)?)
    }
}

#[cfg(test)]
mod tests {
    use super::{OwnError, patch, read_space};
    use serde_json::{Value, json};

    #[test]
    fn each_hook_is_told_once() {
        let hooks = |one: Value, other: Value| {
            json!({"webhooks": [{"name": "a", "clientConfig": one}, {"name": "b", "clientConfig": other}]}).to_string()
        };
        let told = json!({"url": "https://a", "caBundle": "UEVN"});
        let written = patch(hooks(json!({"url": "https://a"}), told.clone()).as_bytes(), "PEM").unwrap().unwrap();
        let written: Value = serde_json::from_str(&written).unwrap();
        let bundle = json!({"caBundle": "UEVN"});
        assert_eq!(
            written,
            json!({"webhooks": [{"name": "a", "clientConfig": bundle}, {"name": "b", "clientConfig": bundle}]})
        );
        assert_eq!(patch(hooks(told.clone(), told).as_bytes(), "PEM").unwrap(), None);
    }

    #[test]
    fn what_is_no_configuration_is_not_patched() {
        for wrong in [
            "",
            "{}",
            "[]",
            "7",
            r#"{"webhooks":null}"#,
            r#"{"webhooks":[]}"#,
            r#"{"webhooks":[7]}"#,
            r#"{"webhooks":{}}"#,
        ] {
            assert!(matches!(patch(wrong.as_bytes(), "PEM"), Err(OwnError::Unusable(_))), "{wrong}");
        }
        let whole = r#"{"webhooks":[{"name":"a","clientConfig":{}}]}"#;
        for end in 0..whole.len() {
            assert!(patch(&whole.as_bytes()[..end], "PEM").is_err(), "{end}");
        }
    }

    #[test]
    fn a_namespace_says_whether_it_is_managed_and_what_it_does() {
        let read = |metadata: Value| read_space(json!({"metadata": metadata}).to_string().as_bytes()).unwrap();
        assert!(read(json!({"labels": {"managed-by": "vworkspace"}})).is_managed);
        for labels in [
            json!({"managed-by": "Vworkspace"}),
            json!({"managed-by": ["vworkspace"]}),
            json!({}),
            json!([]),
            Value::Null,
        ] {
            assert!(!read(json!({"labels": labels})).is_managed, "{labels}");
        }
        let annotated = json!({"annotations": {"ops.vworkspace.io/allowed-types": "Backup"}});
        assert_eq!(read(annotated).allowed_types.as_deref(), Some("Backup"));
        for wrong in ["", "[", "{\"metadata\"", "\u{0}"] {
            assert!(read_space(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }
}
