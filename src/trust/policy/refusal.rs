//! Why a job is refused, for a result and for the person who reads it.
//!
//! A message never holds a value of the job, for it may be a secret: it holds names, paths, and addresses of charts that
//! were found to have no credentials in them.

use std::fmt;

use crate::protocol::GroupKind;

/// Why a job is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The chart or the entry of the catalog is not in the allow-list; it, as the list would name it.
    ChartNotAllowed(String),
    /// The address of the chart cannot be compared with the allow-list.
    ChartUnusable,
    /// A `Secret` came in the open, and has to be encrypted.
    EncryptionRequired,
    /// Secret material in `spec.values.inline`; where.
    InlineSecret(String),
    /// The kind is not in the allow-list.
    KindNotAllowed(GroupKind),
    /// A member that is for the node's owner to set.
    MemberNotAllowed(&'static str),
    /// The namespace is not in the allow-list, or a system namespace.
    NamespaceNotAllowed(String),
    /// The kind, or this object of it, is never open to jobs.
    Never(GroupKind),
    /// The type of the operation is not in the node's list.
    OperationNotAllowed(String),
    /// The type of the operation is not in the list of its namespace.
    OperationNotAllowedHere(String),
    /// The object cannot be read as far as the policy must.
    Unreadable(&'static str),
}

impl Refusal {
    /// One word for a result.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::ChartNotAllowed(_) | Self::ChartUnusable => "ChartNotAllowed",
            Self::EncryptionRequired => "EncryptionRequired",
            Self::InlineSecret(_) => "InlineSecretMaterialRejected",
            Self::KindNotAllowed(_) => "KindNotAllowed",
            Self::MemberNotAllowed(_) => "MemberNotAllowed",
            Self::NamespaceNotAllowed(_) => "NamespaceNotAllowed",
            Self::Never(_) => "NeverAllowed",
            Self::OperationNotAllowed(_) | Self::OperationNotAllowedHere(_) => "OperationNotAllowed",
            Self::Unreadable(_) => "InvalidManifest",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ChartNotAllowed(chart) => write!(
                f,
                "this node does not install {chart}, because a chart is code: its owner can allow it with --allow-chart"
            ),
            Self::ChartUnusable => f.write_str(
                "spec.chart cannot be compared with what this node allows: write sourceType oci with oci://HOST/PATH or \
                 sourceType helm with https://HOST/PATH, no credentials, dots, percent signs or queries in it, and the \
                 plain name of the chart",
            ),
            Self::EncryptionRequired => f.write_str(
                "this node takes a Secret only in an encrypted payload: encrypt the job to the key of the node, or let \
                 its owner turn require_encrypted_secrets off",
            ),
            Self::InlineSecret(path) => write!(
                f,
                "{path} holds secret material, which stays readable in the cluster: send a Secret and name it in \
                 spec.values.secretRef, or leave the value to external secrets"
            ),
            Self::KindNotAllowed(kind) => {
                write!(f, "this node does not accept {kind}: its owner can allow it with --allow-kind {kind}")
            }
            Self::MemberNotAllowed(member) => {
                write!(f, "no job sets {member}: it is for the node's owner, who can set it with kubectl")
            }
            Self::NamespaceNotAllowed(namespace) => write!(
                f,
                "this node does not let jobs into the namespace {namespace}: its owner can allow it with --allow-namespace"
            ),
            Self::Never(kind) => write!(
                f,
                "no setting lets a job touch this {kind}: it would change the agent's own rights. The node's owner can \
                 do it with kubectl"
            ),
            Self::OperationNotAllowed(operation) => write!(
                f,
                "this node does not do operations of type {operation}: its owner can allow it with --allow-operation"
            ),
            Self::OperationNotAllowedHere(operation) => write!(
                f,
                "the namespace does not do operations of type {operation}: the node's owner can add it to the \
                 namespace's annotation ops.vworkspace.io/allowed-types"
            ),
            Self::Unreadable(member) => write!(
                f,
                "{member} cannot be judged: it or a member of it is of the wrong type, there twice, or differs from a \
                 known one in case alone"
            ),
        }
    }
}

impl std::error::Error for Refusal {}
