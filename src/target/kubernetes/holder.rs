//! One agent acts: the record of who does.
//!
//! A config map says who acts. It is written once, at the start, on the version that was read: of two agents that
//! start together one is told to look again. Nothing is renewed. A newcomer asks for the pod of who is named there;
//! who is named watches the record, and stops when it names another.

use http::Method;
use serde::Deserialize;
use serde_json::json;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};

use super::Inner;
use super::api::{self, Call, Fault, segment};
use super::decode::Text;
use super::object::Event;
use super::pause::Pause;
use crate::json;
use crate::limits;
use crate::protocol::FIELD_MANAGER;
use crate::target::holder::Holder;
use crate::trust::policy::OWN_NAMESPACE;

const NAME: &str = "vworkspace-agent-holder";

/// What an agent that is not named in the record can do about it.
const REMEDY: &str = "apply k3s/rbac.yaml and start the agent again";

/// The record, as far as anybody asks.
pub(super) struct Record {
    version: String,
    /// None as long as nobody has written it.
    pub(super) holder: Option<Holder>,
}

/// Where it lies.
pub(super) fn path() -> String {
    format!("/api/v1/namespaces/{OWN_NAMESPACE}/configmaps/{NAME}")
}

/// What a look at the record came to.
enum Claim {
    /// Another agent is named, and its pod is there.
    Elsewhere(Holder),
    /// We are named, in this version.
    Ours(String),
}

/// Notes `me` as the one who acts and says so through `held`; ends with who acts instead. Everything ends when the
/// future is dropped.
pub(super) async fn run(inner: &Inner, me: Holder, held: oneshot::Sender<()>) -> Holder {
    let mut held = Some(held);
    let mut me = me;
    match claim(inner, &mut me, &mut held).await {
        Ok(version) => {
            if let Some(held) = held {
                let _ = held.send(());
            }
            Keeper { inner, me: &me, is_troubled: false }.keep(version).await
        }
        Err(other) => other,
    }
}

/// Waits until we are named, and gives the version; or who is, if we began to act before that was known.
async fn claim(inner: &Inner, me: &mut Holder, held: &mut Option<oneshot::Sender<()>>) -> Result<String, Holder> {
    let mut pause = Pause::new(2 * limits::BACKOFF_FLOOR, limits::HOLDER_LOOK);
    let (mut is_waiting, mut is_troubled, mut was_refused) = (false, false, false);
    let begin = Instant::now();
    loop {
        match inner.claim(me).await {
            Ok(Claim::Ours(version)) => {
                tracing::info!(holder = %me, "this agent acts on the cluster");
                return Ok(version);
            }
            Ok(Claim::Elsewhere(other)) if held.is_none() => return Err(other),
            Ok(Claim::Elsewhere(other)) => {
                if !std::mem::replace(&mut is_waiting, true) {
                    tracing::info!(holder = %other, "another agent acts on this cluster: waiting until its pod is gone");
                }
                sleep(limits::HOLDER_LOOK).await;
            }
            // One that starts may be ready by the time when it is asked for that: a refusal counts when it comes again.
            Err(fault) if inner.is_passing(&fault).await || !std::mem::replace(&mut was_refused, true) => {
                if !std::mem::replace(&mut is_troubled, true) {
                    tracing::warn!(error = %fault, "the cluster does not tell who acts on it: trying again");
                }
                // Nothing can be applied while that is so, but there is more to do than to apply.
                if !is_waiting && begin.elapsed() >= limits::HOLDER_PATIENCE {
                    held.take().map(|held| held.send(()));
                }
                sleep(pause.next()).await;
            }
            Err(fault) => {
                tracing::warn!(
                    record = %format_args!("{OWN_NAMESPACE}/{NAME}"),
                    error = %fault,
                    "who acts on this cluster cannot be noted: this agent acts, and would not notice another one; {REMEDY}"
                );
                held.take().map(|held| held.send(()));
                std::future::pending::<()>().await;
            }
        }
    }
}

/// Keeps an eye on the record.
struct Keeper<'a> {
    inner: &'a Inner,
    me: &'a Holder,
    is_troubled: bool,
}

impl Keeper<'_> {
    /// Runs until another agent is named.
    async fn keep(mut self, version: String) -> Holder {
        let mut version = Some(version);
        let mut pause = Pause::new(2 * limits::BACKOFF_FLOOR, limits::WATCH_BACKOFF_CAP);
        loop {
            let begin = Instant::now();
            let end = match &mut version {
                Some(version) => self.watch(version).await,
                // The version is too old, or there was none.
                None => match self.inner.record().await {
                    Ok(record) => {
                        version = Some(record.version);
                        if let Some(other) = self.judge(record.holder) {
                            return other;
                        }
                        continue;
                    }
                    Err(fault) => Err(fault),
                },
            };
            if begin.elapsed() >= limits::WATCH_SETTLED {
                pause.reset();
            }
            match end {
                Ok(Some(other)) => return other,
                Ok(None) => {}
                Err(fault) => {
                    if let Fault::Refused(refusal) = &fault {
                        version = None;
                        if matches!(refusal.code, 403 | 404) && !self.inner.is_passing(&fault).await {
                            self.trouble(&fault.to_string());
                            sleep(limits::KIND_BACKOFF_CAP).await;
                            continue;
                        }
                    }
                    tracing::debug!(error = %fault, "the watch of who acts was cut");
                }
            }
            sleep(pause.next()).await;
        }
    }

    /// Until the watch ends, or another agent is named.
    async fn watch(&mut self, version: &mut String) -> Result<Option<Holder>, Fault> {
        let path = format!(
            "/api/v1/namespaces/{OWN_NAMESPACE}/configmaps?watch=true&allowWatchBookmarks=true&timeoutSeconds={}\
             &fieldSelector=metadata.name%3D{NAME}&resourceVersion={}",
            limits::WATCH_TIMEOUT.as_secs(),
            api::query(version)
        );
        let mut body = api::open(self.inner.api(), &Call::get(&path, api::JSON)).await?.into_body();
        let mut line = Vec::new();
        while let Some(piece) = api::next(&mut body).await? {
            for part in piece.split_inclusive(|byte| *byte == b'\n') {
                if line.len() + part.len() > limits::HOLDER_BODY_BYTES {
                    return Err(Fault::TooLong(limits::HOLDER_BODY_BYTES as u64));
                }
                line.extend_from_slice(part);
                if line.ends_with(b"\n") {
                    if let Some(other) = self.event(&line, version)? {
                        return Ok(Some(other));
                    }
                    line.clear();
                }
            }
        }
        Ok(None)
    }

    fn event(&mut self, line: &[u8], version: &mut String) -> Result<Option<Holder>, Fault> {
        let event: Event<'_> = json::read(line).map_err(|_| unusable())?;
        let text = event.object.get().as_bytes();
        if event.kind.0 == "ERROR" {
            return Err(Fault::Refused(api::Refusal::read(200, text)));
        }
        let record = Record::read(text)?;
        if !record.version.is_empty() {
            *version = record.version;
        }
        match event.kind.0.as_ref() {
            "ADDED" | "MODIFIED" => Ok(self.judge(record.holder)),
            "DELETED" => {
                self.trouble("it was deleted");
                Ok(None)
            }
            _ => Ok(None),
        }
    }

    fn judge(&mut self, holder: Option<Holder>) -> Option<Holder> {
        if holder.is_none() {
            self.trouble("it names nobody");
        }
        holder.filter(|holder| !holder.is(self.me))
    }

    /// Says once that we act without being named.
    fn trouble(&mut self, error: &str) {
        if !std::mem::replace(&mut self.is_troubled, true) {
            tracing::warn!(
                record = %format_args!("{OWN_NAMESPACE}/{NAME}"),
                error,
                "the record of who acts on this cluster is gone: this agent goes on, and another one that starts would \
                 not wait for it; {REMEDY}"
            );
        }
    }
}

impl Inner {
    /// One look, and one write where nobody acts who is known to live.
    async fn claim(&self, me: &mut Holder) -> Result<Claim, Fault> {
        self.complete(me).await?;
        loop {
            let record = self.record().await?;
            match record.holder {
                Some(holder) if holder.is(me) => return Ok(Claim::Ours(record.version)),
                Some(holder) if self.lives(&holder).await? => return Ok(Claim::Elsewhere(holder)),
                Some(holder) => tracing::info!(before = %holder, "taking over the cluster"),
                None => {}
            }
            match self.write(me, &record.version).await {
                Ok(record) => return Ok(Claim::Ours(record.version)),
                // Somebody was faster.
                Err(Fault::Refused(refusal)) if refusal.code == 409 => sleep(limits::BACKOFF_FLOOR).await,
                Err(fault) => return Err(fault),
            }
        }
    }

    async fn record(&self) -> Result<Record, Fault> {
        let path = path();
        let call = Call { limit: limits::HOLDER_BODY_BYTES as u64, ..Call::get(&path, api::JSON) };
        Record::read(&api::ask(self.api(), &call).await?)
    }

    async fn write(&self, me: &Holder, version: &str) -> Result<Record, Fault> {
        // What the holder before was and we are not goes away with null.
        let data = match me {
            Holder::Machine { agent, boot } => {
                json!({"agent": agent, "boot": boot, "namespace": null, "pod": null, "uid": null})
            }
            Holder::Pod { namespace, name, uid } => {
                json!({"agent": null, "boot": null, "namespace": namespace, "pod": name, "uid": uid})
            }
        };
        let text = json!({"metadata": {"resourceVersion": version}, "data": data}).to_string();
        let path = format!("/api/v1/namespaces/{OWN_NAMESPACE}/configmaps/{NAME}?fieldManager={FIELD_MANAGER}");
        let body = || text.clone().into_bytes();
        let call = Call {
            method: Method::PATCH,
            content: Some(("application/merge-patch+json", &body)),
            limit: limits::HOLDER_BODY_BYTES as u64,
            ..Call::get(&path, api::JSON)
        };
        Record::read(&api::ask(self.api(), &call).await?)
    }

    /// Whether the pod of a holder is there and has not ended. What we cannot see does not count.
    async fn lives(&self, holder: &Holder) -> Result<bool, Fault> {
        let Holder::Pod { namespace, name, uid } = holder else { return Ok(false) };
        let Some((found, phase)) = self.pod(namespace, name).await? else { return Ok(false) };
        Ok((uid.is_empty() || *uid == found) && !matches!(phase.as_str(), "Failed" | "Succeeded"))
    }

    /// Uid and phase of a pod.
    async fn pod(&self, namespace: &str, name: &str) -> Result<Option<(String, String)>, Fault> {
        #[derive(Deserialize)]
        struct Pod<'a> {
            #[serde(borrow)]
            metadata: Metadata<'a>,
            #[serde(borrow, default)]
            status: Status<'a>,
        }

        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Status<'a> {
            #[serde(borrow)]
            phase: Text<'a>,
        }

        let (Ok(namespace), Ok(name)) = (segment(namespace), segment(name)) else { return Ok(None) };
        let path = format!("/api/v1/namespaces/{namespace}/pods/{name}");
        let text = match api::ask(self.api(), &Call::get(&path, api::JSON)).await {
            Err(Fault::Refused(refusal)) if refusal.code == 404 => return Ok(None),
            Err(fault @ Fault::Refused(_)) if !self.is_passing(&fault).await => {
                tracing::warn!(pod = name, error = %fault, "whether a pod is there cannot be seen: it counts as gone; {REMEDY}");
                return Ok(None);
            }
            answer => answer?,
        };
        let pod: Pod<'_> = json::read(&text).map_err(|_| unusable())?;
        let short = |text: &Text<'_>| text.cut(limits::HOLDER_TEXT_BYTES);
        Ok(Some((short(&pod.metadata.uid), short(&pod.status.phase))))
    }

    /// A pod that was not told its uid asks for it.
    async fn complete(&self, me: &mut Holder) -> Result<(), Fault> {
        if let Holder::Pod { namespace, name, uid } = me
            && uid.is_empty()
            && let Some((found, _)) = self.pod(namespace, name).await?
        {
            *uid = found;
        }
        Ok(())
    }

    /// Whether the same call may have another answer soon. While an API server starts it knows no rights yet.
    async fn is_passing(&self, fault: &Fault) -> bool {
        match fault {
            Fault::Credential | Fault::Net(_) => true,
            Fault::Refused(refusal) => match refusal.code {
                429 | 500.. => true,
                403 | 404 => !self.is_ready().await,
                _ => false,
            },
            Fault::TooLong(_) | Fault::Unusable(_) => false,
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Metadata<'a> {
    #[serde(borrow)]
    resource_version: Text<'a>,
    #[serde(borrow)]
    uid: Text<'a>,
}

impl Record {
    pub(super) fn read(text: &[u8]) -> Result<Self, Fault> {
        #[derive(Deserialize)]
        struct ConfigMap<'a> {
            #[serde(borrow)]
            metadata: Metadata<'a>,
            #[serde(borrow, default)]
            data: Option<Data<'a>>,
        }

        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Data<'a> {
            #[serde(borrow)]
            agent: Text<'a>,
            #[serde(borrow)]
            boot: Text<'a>,
            #[serde(borrow)]
            namespace: Text<'a>,
            #[serde(borrow)]
            pod: Text<'a>,
            #[serde(borrow)]
            uid: Text<'a>,
        }

        let map: ConfigMap<'_> = json::read(text).map_err(|_| unusable())?;
        let data = map.data.unwrap_or_default();
        let short = |text: &Text<'_>| text.cut(limits::HOLDER_TEXT_BYTES);
        let holder = if !data.pod.0.is_empty() {
            Some(Holder::Pod { namespace: short(&data.namespace), name: short(&data.pod), uid: short(&data.uid) })
        } else if !data.agent.0.is_empty() {
            Some(Holder::Machine { agent: short(&data.agent), boot: short(&data.boot) })
        } else {
            None
        };
        Ok(Self { version: short(&map.metadata.resource_version), holder })
    }
}

fn unusable() -> Fault {
    Fault::Unusable("the record of who acts cannot be read".to_owned())
}

#[cfg(test)]
mod tests {
    use super::{Holder, Record};
    use crate::limits;

    fn holder(data: &str) -> Option<Holder> {
        Record::read(format!(r#"{{"metadata":{{"resourceVersion":"7"}},"data":{data}}}"#).as_bytes()).unwrap().holder
    }

    #[test]
    fn a_record_names_a_pod_a_machine_or_nobody() {
        assert_eq!(
            holder(r#"{"pod":"p","namespace":"n","uid":"u"}"#),
            Some(Holder::Pod { namespace: "n".to_owned(), name: "p".to_owned(), uid: "u".to_owned() })
        );
        assert_eq!(
            holder(r#"{"agent":"a","boot":"b"}"#),
            Some(Holder::Machine { agent: "a".to_owned(), boot: "b".to_owned() })
        );
        for nobody in ["null", "{}", r#"{"pod":""}"#, r#"{"pod":7,"agent":[]}"#] {
            assert_eq!(holder(nobody), None, "{nobody}");
        }
    }

    #[test]
    fn what_is_no_record_is_an_error_and_a_long_name_is_cut() {
        for text in ["", "{", "[]", r#"{"data":{}}"#, r#"{"metadata":{},"data":7}"#, r#"{"metadata":7}"#] {
            assert!(Record::read(text.as_bytes()).is_err(), "{text}");
        }
        let long = "x".repeat(limits::HOLDER_TEXT_BYTES + 1);
        let Some(Holder::Pod { name, .. }) = holder(&format!(r#"{{"pod":"{long}"}}"#)) else { panic!() };
        assert_eq!(name.len(), limits::HOLDER_TEXT_BYTES);
    }
}
