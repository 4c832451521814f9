//! `Cluster`, as the agent reads it.
//!
//! The doc comments of the fields are what `kubectl explain` prints.

use std::collections::BTreeMap;
use std::error::Error as StdError;
use std::fmt;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::ROTATE_ANNOTATION;
use super::policy::PolicySpec;
use super::status::ClusterStatus;
use crate::limits;

/// Where a token lies in its Secret when nothing is said.
pub const DEFAULT_TOKEN_KEY: &str = "registrationToken";

/// One `Cluster`. Its fields may be nonsense, and its metadata is known nevertheless: whoever wrote it is told.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// What the API server says of it.
    pub metadata: Metadata,
    /// What its owner wants.
    pub spec: Result<ClusterSpec, InvalidSpec>,
    /// What was last said of it; nothing where that cannot be read.
    pub status: ClusterStatus,
}

/// As much of an object's metadata as a controller needs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Metadata {
    /// Name.
    pub name: String,
    /// The same as long as it is the same object.
    pub uid: String,
    /// The version that was read.
    pub resource_version: String,
    /// Counts the changes of the spec.
    pub generation: i64,
    /// It is going to be deleted once its finalizers are gone.
    pub deletion_timestamp: Option<String>,
    /// Annotations.
    pub annotations: Option<BTreeMap<String, String>>,
    /// Who wants to be asked before it is deleted.
    pub finalizers: Option<Vec<String>>,
}

/// How this cluster reaches its control plane, and what that may ask of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "crds", derive(serde::Serialize, schemars::JsonSchema, kube::CustomResource))]
#[cfg_attr(
    feature = "crds",
    kube(
        group = "ops.vworkspace.io",
        version = "v1alpha1",
        kind = "Cluster",
        root = "ClusterResource",
        doc = "This cluster, as it is known to its control plane.",
        status = "ClusterStatus",
        printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
        printcolumn(
            name = "Connected",
            type_ = "string",
            json_path = ".status.conditions[?(@.type==\"Connected\")].status"
        ),
        printcolumn(name = "Mode", type_ = "string", json_path = ".spec.connectivityMode"),
        printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    )
)]
#[serde(default, rename_all = "camelCase")]
pub struct ClusterSpec {
    /// The name of this cluster at the control plane; without one the control plane gives it at the registration.
    #[cfg_attr(feature = "crds", schemars(regex(pattern = r"^[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$")))]
    pub cluster_id: Option<String>,
    /// URL of the control plane. Plain http is refused, but to this machine itself where the agent is set so.
    #[cfg_attr(feature = "crds", schemars(length(max = 2048), regex(pattern = r"^https?://")))]
    pub control_plane_endpoint: Option<String>,
    /// Old name of controlPlaneEndpoint.
    #[cfg_attr(feature = "crds", schemars(length(max = 2048), regex(pattern = r"^https?://")))]
    pub control_plane_base_url: Option<String>,
    /// The Secret in vworkspace-system with the one-time token.
    pub registration_token_secret_ref: Option<TokenReference>,
    /// Registers anew, with the credential that is there or with a new one-time token.
    pub rotate_credentials: Option<bool>,
    /// Who acts: the agent fetches jobs (pull), or others write the objects (push, gitops) and it reports only.
    pub connectivity_mode: ConnectivityMode,
    /// How jobs are fetched.
    pub pull: Option<Pull>,
    /// The way out. Without it that of the configuration file or of the environment.
    pub proxy: Option<Proxy>,
    /// Further authorities for the control plane, PEM.
    #[cfg_attr(feature = "crds", schemars(length(max = 65536), regex(pattern = r"-----BEGIN CERTIFICATE-----")))]
    pub ca_bundle: Option<String>,
    /// What is asked of jobs and of the line. It adds to the configuration file and takes nothing back.
    pub security: Option<Security>,
    /// What jobs may do. It narrows the configuration file and opens nothing.
    pub policy: Option<PolicySpec>,
}

/// Names a Secret in vworkspace-system.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "crds", derive(serde::Serialize, schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct TokenReference {
    /// Name of the Secret.
    #[cfg_attr(feature = "crds", schemars(length(max = 253), regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")))]
    pub name: String,
    /// The key of the token in it.
    #[serde(default = "default_token_key")]
    #[cfg_attr(feature = "crds", schemars(regex(pattern = r"^[-._a-zA-Z0-9]{1,253}$")))]
    pub key: String,
}

/// Who acts on the cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "crds", derive(serde::Serialize, schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum ConnectivityMode {
    /// A repository is applied by somebody else; the agent reports.
    Gitops,
    /// The agent fetches jobs.
    #[default]
    Pull,
    /// The control plane writes the objects itself; the agent reports.
    Push,
}

/// How jobs are fetched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "crds", derive(serde::Serialize, schemars::JsonSchema))]
#[serde(default, rename_all = "camelCase")]
pub struct Pull {
    /// By what. An agent that was built without it says so in the condition Accepted.
    pub transport: Option<Transport>,
    /// Seconds for which a poll is held.
    #[cfg_attr(feature = "crds", schemars(range(min = 1, max = 300)))]
    pub wait_seconds: Option<u16>,
}

/// By what jobs are fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "crds", derive(serde::Serialize, schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// A gRPC stream.
    Grpc,
    /// A request that is held until there is a job.
    Longpoll,
    /// An MQTT broker.
    Mqtt,
    /// NATS.
    Nats,
    /// Server-sent events.
    Sse,
}

/// The way out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "crds", derive(serde::Serialize, schemars::JsonSchema))]
#[serde(default, rename_all = "camelCase")]
pub struct Proxy {
    /// URL of an http or https proxy, or none. Without a password: many may read a Cluster, and the configuration file of
    /// the agent takes one.
    #[cfg_attr(feature = "crds", schemars(length(max = 2048), regex(pattern = r"^(none|https?://[^@/]+/?)$")))]
    pub url: Option<String>,
    /// Hosts and domains that are reached without it.
    #[cfg_attr(
        feature = "crds",
        schemars(length(max = 64), inner(length(min = 1, max = 253), regex(pattern = r"^[^,\s]+$")))
    )]
    pub no_proxy: Option<Vec<String>>,
}

/// What is asked of jobs and of the line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "crds", derive(serde::Serialize, schemars::JsonSchema))]
#[serde(default, rename_all = "camelCase")]
pub struct Security {
    /// Jobs have to be signed. False does not weaken what the agent is set to.
    pub require_signed_payloads: Option<bool>,
    /// A Secret has to come encrypted.
    pub require_encrypted_secret_payloads: Option<bool>,
    /// Client certificates.
    pub mtls: Option<Mtls>,
}

/// Client certificates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "crds", derive(serde::Serialize, schemars::JsonSchema))]
#[serde(default, rename_all = "camelCase")]
pub struct Mtls {
    /// The agent asks for a client certificate and uses it.
    pub enabled: bool,
}

/// The text is no JSON of an object, or it has no usable metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoCluster;

/// Why the spec of a Cluster cannot be used, as the parser says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidSpec(String);

/// Both names of the endpoint are there, and differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TwoEndpoints;

impl Cluster {
    /// Reads the JSON of one object.
    ///
    /// # Errors
    /// When it has no usable metadata. Nonsense in the spec is told there, and so is an object of more than
    /// [`limits::CLUSTER_OBJECT_BYTES`].
    pub fn parse(text: &[u8]) -> Result<Self, NoCluster> {
        #[derive(Deserialize)]
        struct Object<'a> {
            metadata: Metadata,
            #[serde(borrow)]
            spec: Option<&'a RawValue>,
            #[serde(borrow)]
            status: Option<&'a RawValue>,
        }

        let mut object: Object<'_> = crate::json::read(text).map_err(|_| NoCluster)?;
        // Several Clusters are held at once, and a quarter of a megabyte may be noted on each.
        if let Some(annotations) = &mut object.metadata.annotations {
            annotations.retain(|name, _| name == ROTATE_ANNOTATION);
        }
        if text.len() > limits::CLUSTER_OBJECT_BYTES {
            let spec = Err(InvalidSpec("the object is longer than 256 KiB".to_owned()));
            return Ok(Self { metadata: object.metadata, spec, status: ClusterStatus::default() });
        }
        let spec = match object.spec {
            Some(spec) => serde_json::from_str(spec.get()).map_err(|error| InvalidSpec::new(&error)),
            None => Ok(ClusterSpec::default()),
        };
        let status = object.status.and_then(|status| serde_json::from_str(status.get()).ok()).unwrap_or_default();
        Ok(Self { metadata: object.metadata, spec, status })
    }

    /// Whether the annotation asks for a new registration.
    #[must_use]
    pub fn wants_rotation(&self) -> bool {
        let annotations = self.metadata.annotations.as_ref();
        annotations
            .and_then(|annotations| annotations.get(ROTATE_ANNOTATION))
            .is_some_and(|value| !matches!(value.trim(), "" | "false"))
    }
}

impl ClusterSpec {
    /// The URL of the control plane by either of its names; an empty one is none.
    ///
    /// # Errors
    /// When both are there and differ.
    pub fn endpoint(&self) -> Result<Option<&str>, TwoEndpoints> {
        match (given(self.control_plane_endpoint.as_deref()), given(self.control_plane_base_url.as_deref())) {
            (Some(url), Some(old)) if url != old => Err(TwoEndpoints),
            (url, old) => Ok(url.or(old)),
        }
    }
}

impl InvalidSpec {
    fn new(error: &serde_json::Error) -> Self {
        // It may quote what it stumbled over.
        Self(error.to_string().chars().take(limits::POLICY_PATH_CHARS).collect())
    }
}

impl fmt::Display for NoCluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the API server's answer is no Cluster")
    }
}

impl StdError for NoCluster {}

impl fmt::Display for InvalidSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the spec of the Cluster cannot be used: {}", self.0)
    }
}

impl StdError for InvalidSpec {}

impl fmt::Display for TwoEndpoints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("controlPlaneEndpoint and its old name controlPlaneBaseUrl differ: remove the old one")
    }
}

impl StdError for TwoEndpoints {}

fn given(url: Option<&str>) -> Option<&str> {
    url.map(str::trim).filter(|url| !url.is_empty())
}

fn default_token_key() -> String {
    DEFAULT_TOKEN_KEY.to_owned()
}

#[cfg(test)]
mod tests {
    use super::{Cluster, ConnectivityMode, NoCluster, Transport, TwoEndpoints};
    use crate::limits;

    fn parse(text: &str) -> Cluster {
        Cluster::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn a_cluster_with_nothing_in_it_pulls() {
        for text in [r#"{"metadata":{}}"#, r#"{"metadata":{"name":"a"},"spec":null,"status":null}"#] {
            let cluster = parse(text);
            let spec = cluster.spec.clone().unwrap();
            assert_eq!((spec.connectivity_mode, spec.endpoint()), (ConnectivityMode::Pull, Ok(None)));
            assert!(!cluster.wants_rotation() && cluster.status.conditions.is_empty());
        }
    }

    #[test]
    fn what_the_owner_wants_is_read() {
        let cluster = parse(
            r#"{"apiVersion":"ops.vworkspace.io/v1alpha1","kind":"Cluster",
            "metadata":{"name":"clinic","uid":"u","resourceVersion":"7","generation":3,"managedFields":[{}],
                "annotations":{"ops.vworkspace.io/rotate-credentials":"now"},"finalizers":["f"]},
            "spec":{"controlPlaneEndpoint":"https://a","registrationTokenSecretRef":{"name":"t"},"pull":{"transport":"sse",
                "waitSeconds":60},"security":{"mtls":{"enabled":true}},"policy":{"kinds":[]},"later":1},
            "status":{"phase":"Connected","conditions":[{"type":"Connected","status":"True"}],"observedGeneration":2,
                "lastHeartbeat":"2026-01-31T12:00:00Z","buffer":{"lost":1}}}"#,
        );
        assert!(cluster.wants_rotation());
        assert_eq!((cluster.metadata.generation, cluster.status.observed_generation), (3, Some(2)));
        let spec = cluster.spec.unwrap();
        assert_eq!(spec.endpoint(), Ok(Some("https://a")));
        assert_eq!(spec.registration_token_secret_ref.unwrap().key, "registrationToken");
        assert_eq!(spec.pull.unwrap().transport, Some(Transport::Sse));
        assert_eq!(spec.policy.unwrap().kinds, Some(Vec::new()));
        assert!(spec.security.unwrap().mtls.unwrap().enabled);
        assert_eq!(cluster.status.buffer.unwrap().lost, 1);
    }

    #[test]
    fn nonsense_in_the_spec_leaves_the_metadata() {
        for (spec, word) in [
            (r#"{"connectivityMode":"teleport"}"#, "teleport"),
            (r#"{"pull":{"waitSeconds":-1}}"#, "-1"),
            (r#"{"pull":{"waitSeconds":65536}}"#, "65536"),
            (r#"{"registrationTokenSecretRef":{}}"#, "name"),
            ("[1]", "invalid type"),
        ] {
            let cluster = parse(&format!(r#"{{"metadata":{{"name":"a"}},"spec":{spec}}}"#));
            assert_eq!(cluster.metadata.name, "a");
            let error = cluster.spec.unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
        let long = format!(r#"{{"metadata":{{}},"spec":{{"connectivityMode":"{}"}}}}"#, "x".repeat(1_000));
        assert!(parse(&long).spec.unwrap_err().to_string().len() < 300);
    }

    #[test]
    fn a_status_that_nobody_can_read_is_none() {
        assert_eq!(parse(r#"{"metadata":{},"status":{"phase":"Elsewhere"}}"#).status.phase, None);
    }

    #[test]
    fn what_is_no_cluster_is_refused() {
        for text in ["", "[]", "{}", "<html>", r#"{"metadata":{"name":1}}"#, r#"{"metadata":{"name":"a"}"#] {
            assert_eq!(Cluster::parse(text.as_bytes()).unwrap_err(), NoCluster, "{text}");
        }
    }

    #[test]
    fn one_that_is_longer_than_the_bound_has_a_name_and_nothing_else() {
        let mut text = br#"{"metadata":{"name":"a"},"spec":{"clusterId":"c"}}"#.to_vec();
        text.resize(limits::CLUSTER_OBJECT_BYTES, b' ');
        assert!(Cluster::parse(&text).unwrap().spec.is_ok());
        text.push(b' ');
        let cluster = Cluster::parse(&text).unwrap();
        assert_eq!(cluster.metadata.name, "a");
        assert!(cluster.spec.unwrap_err().to_string().contains("longer than 256 KiB"));
    }

    #[test]
    fn the_old_name_of_the_endpoint_still_counts() {
        let endpoint = |spec: &str| {
            let cluster = parse(&format!(r#"{{"metadata":{{}},"spec":{spec}}}"#));
            cluster.spec.unwrap().endpoint().map(|url| url.map(str::to_owned))
        };
        let old = r#"{"controlPlaneBaseUrl":"https://a"}"#;
        assert_eq!(endpoint(old), Ok(Some("https://a".to_owned())));
        let both = r#"{"controlPlaneBaseUrl":"https://a","controlPlaneEndpoint":"https://a "}"#;
        assert_eq!(endpoint(both), Ok(Some("https://a".to_owned())));
        assert_eq!(
            endpoint(r#"{"controlPlaneBaseUrl":"https://a","controlPlaneEndpoint":"https://b"}"#),
            Err(TwoEndpoints)
        );
        assert_eq!(endpoint(r#"{"controlPlaneEndpoint":" "}"#), Ok(None));
    }

    #[test]
    fn an_annotation_asks_for_a_rotation_unless_it_is_empty_or_false() {
        for (value, wanted) in [("", false), (" ", false), ("false", false), ("true", true), ("now", true)] {
            let key = crate::resources::ROTATE_ANNOTATION;
            let text = format!(r#"{{"metadata":{{"annotations":{{"{key}":"{value}"}}}}}}"#);
            assert_eq!(parse(&text).wants_rotation(), wanted, "{value:?}");
        }
    }
}
