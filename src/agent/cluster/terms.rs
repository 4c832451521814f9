//! What a Cluster asks for, over what the configuration file says. Pure.
//!
//! The Cluster says where and how; of what a job may do it takes away, and adds nothing (TRUST.md, Policy).

use std::time::Duration;

use crate::config::Config;
use crate::link::Endpoint;
use crate::link::hold::Hold;
use crate::net::ProxySetting;
use crate::protocol::ClusterId;
use crate::resources::{Cluster, ClusterSpec, ConnectivityMode, Transport};

/// Why a Cluster is not served: a reason in a word, and what to do about it.
pub(super) type Unacceptable = (&'static str, String);

const INVALID: &str = "InvalidSpec";
const MODE: &str = "ModeNotSupported";

/// The configuration that the agent goes by. Without an endpoint there is nobody to register with.
pub(super) fn terms(config: &Config, cluster: &Cluster) -> Result<Config, Unacceptable> {
    let invalid = |error: &dyn std::fmt::Display| (INVALID, error.to_string());
    let spec = cluster.spec.as_ref().map_err(|error| invalid(error))?;
    check_mode(spec)?;
    let mut config = config.clone();
    if let Some(url) = spec.endpoint().map_err(|error| invalid(&error))? {
        let endpoint = Endpoint::parse(url, config.plain_http)
            .map_err(|error| (INVALID, format!("spec.controlPlaneEndpoint: {error}")))?;
        config.endpoint = Some(endpoint);
    }
    if config.endpoint.is_none() {
        return Err((INVALID, "spec.controlPlaneEndpoint is missing: say where the control plane is".to_owned()));
    }
    if let Some(id) = spec.cluster_id.as_deref().filter(|id| !id.is_empty()) {
        config.cluster_id = Some(ClusterId::parse(id).map_err(|error| (INVALID, format!("spec.clusterId: {error}")))?);
    }
    if let Some(proxy) = &spec.proxy
        && let Some(url) = &proxy.url
    {
        let hosts = proxy.no_proxy.as_ref().map(|hosts| hosts.join(","));
        config.proxy = ProxySetting::parse(url, hosts.as_deref())
            .map_err(|error| (INVALID, format!("spec.proxy.url: {error}")))?;
    }
    // Who pays for each byte has said so on the node.
    if let Some(seconds) = spec.pull.and_then(|pull| pull.wait_seconds)
        && config.poll_interval.is_none()
    {
        if !(1..=300).contains(&seconds) {
            return Err((INVALID, "spec.pull.waitSeconds: from 1 to 300 seconds".to_owned()));
        }
        config.hold = Hold::fixed(Duration::from_secs(seconds.into()));
    }
    let rules = spec.policy.clone().unwrap_or_default().rules(spec.security).map_err(|error| invalid(&error))?;
    config.policy = config.policy.narrowed_by(&rules.into());
    let wants_certificate = spec.security.and_then(|security| security.mtls).is_some_and(|mtls| mtls.enabled);
    // One from files shows as well who is talking.
    config.mtls = (config.mtls || wants_certificate) && config.client_certificate.is_none();
    Ok(config)
}

/// What this build does not do is said, and nothing else is done in its place.
fn check_mode(spec: &ClusterSpec) -> Result<(), Unacceptable> {
    let mode = match spec.connectivity_mode {
        ConnectivityMode::Pull => None,
        ConnectivityMode::Push => Some("connectivityMode push"),
        ConnectivityMode::Gitops => Some("connectivityMode gitops"),
    };
    let transport = match spec.pull.and_then(|pull| pull.transport) {
        None | Some(Transport::Longpoll) => None,
        Some(Transport::Grpc) => Some("pull.transport grpc"),
        Some(Transport::Mqtt) => Some("pull.transport mqtt"),
        Some(Transport::Nats) => Some("pull.transport nats"),
        Some(Transport::Sse) => Some("pull.transport sse"),
    };
    if let Some(what) = mode.or(transport) {
        let text = format!(
            "{what} is not built into this agent, which does nothing until that is changed: it has pull by longpoll"
        );
        return Err((MODE, text));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::terms;
    use crate::config::{Config, Settings};
    use crate::link::hold::Stage;
    use crate::resources::Cluster;

    fn config(change: impl FnOnce(&mut Settings)) -> Config {
        let mut settings = Settings { allow_kind: vec!["/ConfigMap".into()], ..Settings::default() };
        change(&mut settings);
        Config::new(settings, |_| None).unwrap()
    }

    fn cluster(spec: &str) -> Cluster {
        Cluster::parse(format!(r#"{{"metadata":{{"name":"a"}},"spec":{spec}}}"#).as_bytes()).unwrap()
    }

    fn apply(spec: &str) -> Result<Config, (&'static str, String)> {
        terms(&config(|_| {}), &cluster(spec))
    }

    #[test]
    fn the_cluster_says_where_and_how() {
        let config = apply(
            r#"{"controlPlaneEndpoint":"https://a/x/","clusterId":"c7","pull":{"transport":"longpoll","waitSeconds":60},
                "proxy":{"url":"http://proxy.example:3128","noProxy":["b"]},"security":{"requireSignedPayloads":true}}"#,
        )
        .unwrap();
        assert_eq!(config.endpoint.unwrap().to_string(), "https://a/x");
        assert_eq!(config.cluster_id.unwrap().as_str(), "c7");
        assert_eq!((config.hold.length().as_secs(), config.hold.stage()), (60, Stage::Fixed));
        assert_eq!(format!("{:?}", config.proxy), "proxy.example:3128");
        assert!(config.policy.requires_signatures());
        let old = apply(r#"{"controlPlaneBaseUrl":"https://old"}"#).unwrap();
        assert_eq!(old.endpoint.unwrap().to_string(), "https://old");
    }

    #[test]
    fn the_policy_of_the_cluster_narrows_and_opens_nothing() {
        let kinds = |list: &str| {
            let spec = format!(r#"{{"controlPlaneEndpoint":"https://a","policy":{{"kinds":{list}}}}}"#);
            let config = apply(&spec).unwrap();
            config.policy.kinds().iter().map(|kind| kind.kind.clone()).collect::<Vec<_>>()
        };
        assert_eq!(kinds("null"), ["ApplicationInstance", "Operation", "ConfigMap"]);
        assert_eq!(kinds(r#"["/ConfigMap","/Secret"]"#), ["ConfigMap"]);
        assert!(kinds("[]").is_empty());
        let file = config(|settings| settings.signatures = Some("require".into()));
        let spec = r#"{"controlPlaneEndpoint":"https://a","security":{"requireSignedPayloads":false}}"#;
        assert!(terms(&file, &cluster(spec)).unwrap().demands_signatures(), "false weakens nothing");
    }

    #[test]
    fn what_cannot_be_done_is_said_with_its_reason() {
        for (spec, reason, words) in [
            ("{}", "InvalidSpec", "controlPlaneEndpoint is missing"),
            (r#"{"connectivityMode":"push"}"#, "ModeNotSupported", "connectivityMode push is not built"),
            (r#"{"connectivityMode":"gitops"}"#, "ModeNotSupported", "gitops"),
            (r#"{"pull":{"transport":"mqtt"}}"#, "ModeNotSupported", "mqtt"),
            (r#"{"connectivityMode":"teleport"}"#, "InvalidSpec", "teleport"),
            (r#"{"controlPlaneEndpoint":"http://a"}"#, "InvalidSpec", "https"),
            (r#"{"controlPlaneEndpoint":"https://a","controlPlaneBaseUrl":"https://b"}"#, "InvalidSpec", "differ"),
            (r#"{"controlPlaneEndpoint":"https://a","clusterId":"a b"}"#, "InvalidSpec", "spec.clusterId"),
            (r#"{"controlPlaneEndpoint":"https://a","proxy":{"url":"socks5://p"}}"#, "InvalidSpec", "spec.proxy.url"),
            (r#"{"controlPlaneEndpoint":"https://a","pull":{"waitSeconds":0}}"#, "InvalidSpec", "waitSeconds"),
            (r#"{"controlPlaneEndpoint":"https://a","policy":{"kinds":["X"]}}"#, "InvalidSpec", "spec.policy.kinds"),
            (r#"{"controlPlaneEndpoint":7}"#, "InvalidSpec", "invalid type"),
        ] {
            let (told, text) = apply(spec).unwrap_err();
            assert_eq!(told, reason, "{spec}");
            assert!(text.contains(words), "{spec}: {text}");
        }
    }

    #[test]
    fn a_client_certificate_is_asked_for_by_the_cluster_or_the_file_and_one_from_files_is_enough() {
        let spec = |mtls: &str| format!(r#"{{"controlPlaneEndpoint":"https://a","security":{mtls}}}"#);
        for (file, mtls, wanted) in [
            (false, "{}", false),
            (false, r#"{"mtls":{"enabled":false}}"#, false),
            (false, r#"{"mtls":{"enabled":true}}"#, true),
            (true, r#"{"mtls":{"enabled":false}}"#, true),
        ] {
            let config = config(|settings| settings.mtls = Some(file));
            assert_eq!(terms(&config, &cluster(&spec(mtls))).unwrap().mtls, wanted, "{file} {mtls}");
        }
        let config = config(|settings| {
            (settings.client_cert, settings.client_key) = (Some("/c".into()), Some("/k".into()));
        });
        assert!(!terms(&config, &cluster(&spec(r#"{"mtls":{"enabled":true}}"#))).unwrap().mtls);
    }

    #[test]
    fn the_metered_profile_keeps_its_brief_polls_and_the_file_its_endpoint() {
        let file = config(|settings| {
            settings.profile = Some("metered".into());
            settings.endpoint = Some("https://file".into());
        });
        let config = terms(&file, &cluster(r#"{"pull":{"waitSeconds":300}}"#)).unwrap();
        assert_eq!(config.hold.length().as_secs(), 1);
        assert_eq!(config.endpoint.unwrap().to_string(), "https://file");
    }
}
