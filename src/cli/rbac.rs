//! `pullet rbac`: the rights that an agent of these settings needs in a cluster, and no more.

use crate::config::Config;
use crate::protocol::{APPLICATION_INSTANCE, GroupKind, OPERATION};
use crate::texts;

/// What the webhook needs.
#[cfg(feature = "webhook")]
const WEBHOOK: &str = "  # The agent's webhook. get: is its certificate trusted there? patch: it is, from now on.
  - apiGroups: [\"admissionregistration.k8s.io\"]
    resources: [\"validatingwebhookconfigurations\"]
    resourceNames: [\"pullet\"]
    verbs: [\"get\", \"patch\"]
";

/// Where the rules for further kinds belong.
const MARK: &str = "  # Each further kind of allow_kind";

/// The manifests, with a rule for each kind of `allow_kind`, and with what `cluster_resource` needs where that is set.
pub(crate) fn text(config: &Config) -> String {
    let rights = texts::rights();
    let (before, after) = rights.split_once(MARK).unwrap_or((&rights, ""));
    let mut text = before.to_owned();
    for kind in config.policy.kinds() {
        if ![APPLICATION_INSTANCE, OPERATION].iter().any(|(version, name)| kind.matches(version, name)) {
            push_rule(kind, &mut text);
        }
    }
    #[cfg(feature = "webhook")]
    if config.webhook.is_some() {
        text.push_str(WEBHOOK);
    }
    if !after.is_empty() {
        text.push_str(MARK);
        text.push_str(after);
    }
    if config.cluster_resource.is_some() {
        text.push_str("---\n");
        text.push_str(&texts::cluster());
    }
    text
}

fn push_rule(kind: &GroupKind, text: &mut String) {
    for part in [
        "  # ",
        &kind.to_string(),
        ", of allow_kind.\n  - apiGroups: [\"",
        &kind.group,
        "\"]\n    resources: [\"",
        &kind.plural(),
        "\"]\n    verbs: [\"get\", \"list\", \"watch\", \"create\", \"patch\", \"delete\"]\n",
    ] {
        text.push_str(part);
    }
}

#[cfg(test)]
mod tests {
    use super::{MARK, text};
    use crate::config::{Config, Settings};
    use crate::texts;

    fn printed(kinds: &[&str]) -> String {
        let allow_kind = kinds.iter().map(|kind| (*kind).to_owned()).collect();
        let settings =
            Settings { allow_kind, endpoint: Some("https://control.example".to_owned()), ..Settings::default() };
        text(&Config::new(settings, |_| None).unwrap())
    }

    #[test]
    fn what_goes_by_a_cluster_needs_the_rights_for_that_as_well() {
        let settings = Settings { cluster_resource: Some("*".to_owned()), ..Settings::default() };
        let text = text(&Config::new(settings, |_| None).unwrap());
        assert_eq!(text.strip_prefix(&texts::rights()).unwrap(), ["---\n", &texts::cluster()].concat());
    }

    #[test]
    fn the_default_settings_need_what_lies_in_k3s() {
        assert_eq!(printed(&[]), texts::rights());
        assert_eq!(texts::rights().matches(MARK).count(), 1);
    }

    #[test]
    fn each_further_kind_has_a_rule_before_the_end_of_the_role() {
        let text = printed(&["/ConfigMap", "networking.k8s.io/Ingress", "ops.vworkspace.io/Operation"]);
        let added = "  # /ConfigMap, of allow_kind.\n  - apiGroups: [\"\"]\n    resources: [\"configmaps\"]\n    \
                     verbs: [\"get\", \"list\", \"watch\", \"create\", \"patch\", \"delete\"]\n  \
                     # networking.k8s.io/Ingress, of allow_kind.\n  - apiGroups: [\"networking.k8s.io\"]\n    \
                     resources: [\"ingresses\"]\n    verbs: [\"get\", \"list\", \"watch\", \"create\", \"patch\", \
                     \"delete\"]\n";
        assert!(text.contains(&format!("{added}{MARK}")), "{text}");
        assert_eq!(text.len(), texts::rights().len() + added.len(), "no second rule for a default kind");
    }
}
