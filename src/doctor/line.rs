//! The way to the control plane: where it is, the name of the first hop, then one request as the agent makes them, and what
//! became of it.
//!
//! One connection, and not one a check: how far it got is told by its fault, by the bytes that went over it, and by whether a
//! certificate was verified. A proxy that swallows everything, a server that never speaks and an answer that never comes look
//! alike otherwise.

use std::net::{IpAddr, ToSocketAddrs as _};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, DATE, HeaderValue};
use http::{Request, Response, StatusCode, Uri};

use super::{Check, Desk, Patient, Verdict, chain, disk, read, span, within};
use crate::agent;
use crate::clock::{self, Standing};
use crate::json;
use crate::limits;
use crate::link::{Credential, Endpoint};
use crate::metrics::Bytes;
use crate::net::tls::TlsFileError;
use crate::net::{Body, Line, NetError, Patience, Profile};
use crate::protocol::{ErrorBody, MEDIA_TYPE};

/// The shortest answer of a proxy that opens a tunnel: `HTTP/1.1 200 OK` and two ends of a line.
const TUNNEL: u64 = 19;

/// What lies behind the first hop, in its order.
const BEHIND: [Check; 5] = [Check::Proxy, Check::Tcp, Check::Tls, Check::Certificate, Check::Protocol];

pub(super) fn examine(patient: &Patient, desk: &Desk) {
    // The floor that the agent goes by; nothing is written there, since nobody here is a witness.
    let _ = clock::keep_in(&patient.config.state_dir);
    let credential = disk::credential(patient).ok().flatten();
    judge_clock(patient, desk, examine_way(patient, desk, credential.as_ref()));
}

/// All but the clock; gives the date of the answer.
fn examine_way(patient: &Patient, desk: &Desk, credential: Option<&Credential>) -> Option<SystemTime> {
    let Some(endpoint) = endpoint(patient, desk, credential) else {
        desk.skip_because(&[Check::Dns], Check::Endpoint);
        desk.skip_because(&BEHIND, Check::Endpoint);
        return None;
    };
    let uri: Uri = endpoint.url("jobs").parse().ok()?;
    let profile = match profile(patient, credential) {
        Ok(profile) => profile,
        Err((check, error)) => {
            desk.fail(check, &[&chain(&error)], "mend that file: ca_file, client_cert or client_key");
            for other in [Check::Dns].into_iter().chain(BEHIND).filter(|other| *other != check) {
                desk.skip_because(&[other], check);
            }
            return None;
        }
    };
    let Some(hop) = first_hop(patient, desk, &profile, &uri) else {
        desk.skip_because(&BEHIND, Check::Dns);
        return None;
    };
    let is_plain = uri.scheme_str() == Some("http");
    Way { patient, desk, profile, hop, is_registered: credential.is_some(), is_plain }.ask(&endpoint, credential)
}

/// Where the control plane is: as it is set, as it was registered, or as a Cluster says.
fn endpoint(patient: &Patient, desk: &Desk, credential: Option<&Credential>) -> Option<Endpoint> {
    let (check, config) = (Check::Endpoint, &patient.config);
    let parse = |text: &str| Endpoint::parse(text, config.plain_http).ok();
    let stored = credential.and_then(|credential| parse(&credential.endpoint));
    let found = match (&config.endpoint, stored) {
        (Some(set), Some(stored)) if set.origin() != stored.origin() => {
            let seen = [set.origin(), " is set, but the credential was issued by ", stored.origin()];
            desk.fail(check, &seen, "set endpoint back, or register there: pullet register --force");
            return Some(set.clone());
        }
        (Some(set), _) => Some(set.clone()),
        (None, Some(stored)) => Some(stored),
        (None, None) => {
            let running = patient.agent.as_ref().ok().and_then(|status| parse(&status.endpoint));
            running.or_else(|| disk::clusters_endpoint(patient).and_then(|text| parse(&text)))
        }
    };
    match &found {
        Some(endpoint) => desk.ok(check, &[&endpoint.to_string()]),
        None if config.cluster_resource.is_some() => {
            let seen = "no Cluster says where the control plane is, or the API server does not tell";
            desk.fail(check, &[seen], "kubectl get clusters shows which there are; see api-server");
        }
        None => {
            let mend = "set endpoint in /etc/pullet/pullet.toml or in the file of --config";
            desk.fail(check, &["nothing says where the control plane is"], mend);
        }
    }
    found
}

/// How the agent connects. The check is the one that a fault of the files belongs to.
fn profile(patient: &Patient, credential: Option<&Credential>) -> Result<Profile, (Check, TlsFileError)> {
    let mut config = disk::with_bundle(&patient.config);
    // It is read here and now.
    let owners = if config.client_certificate.is_none() { disk::owners_certificate(patient) } else { None };
    if let Some(owners) = &owners {
        config.client_certificate = Some(owners.paths());
    }
    let profile = agent::profile(&config).map_err(|error| {
        let client = config.client_certificate.as_ref();
        let is_clients = match &error {
            TlsFileError::Unusable(_) => true,
            TlsFileError::Empty(path)
            | TlsFileError::Malformed(path)
            | TlsFileError::Open(path)
            | TlsFileError::Unreadable(path, _) => client.is_some_and(|(chain, key)| path == chain || path == key),
        };
        (if is_clients { Check::Certificate } else { Check::Tls }, error)
    })?;
    let may_be_issued = config.mtls || config.cluster_resource.is_some() && owners.is_none();
    if let Some(credential) = credential.filter(|_| may_be_issued) {
        credential.certificates.show(&profile.tls);
    }
    Ok(profile)
}

/// The next machine on the way.
struct Hop {
    is_proxy: bool,
    host: String,
    port: u16,
    /// What its name came to.
    address: Option<String>,
}

impl Hop {
    fn place(&self) -> String {
        let mut text = [&self.host, ":", &self.port.to_string()].concat();
        if let Some(address) = &self.address {
            text.push_str(&[" (", address, ")"].concat());
        }
        text
    }
}

/// Resolves the name of the next machine, as the agent would.
fn first_hop(patient: &Patient, desk: &Desk, profile: &Profile, uri: &Uri) -> Option<Hop> {
    let proxy = profile.proxy.hop(uri);
    let is_proxy = proxy.is_some();
    let port = uri.port_u16().unwrap_or(if uri.scheme_str() == Some("http") { 80 } else { 443 });
    let (host, port) = proxy.unwrap_or_else(|| (uri.host().unwrap_or_default().to_owned(), port));
    let host = host.trim_matches(['[', ']']).to_owned();
    let of = if is_proxy { "of the proxy: " } else { "" };
    if host.parse::<IpAddr>().is_ok() {
        desk.ok(Check::Dns, &[of, &host, " is an address"]);
        return Some(Hop { is_proxy, host, port, address: None });
    }
    let name = host.clone();
    let asked = within(patient.time(), move || (name.as_str(), port).to_socket_addrs().map(|mut found| found.next()));
    let is_local = host.to_ascii_lowercase().ends_with(".local");
    let (error, mend) = match asked {
        Some(Ok(Some(address))) => {
            let address = address.ip().to_string();
            let is_odd = is_local && cfg!(target_env = "gnu");
            let (verdict, mend) = if is_odd { (Verdict::Note, LOCAL) } else { (Verdict::Ok, "") };
            desk.say(Check::Dns, verdict, &[of, &host, " is ", &address], mend);
            return Some(Hop { is_proxy, host, port, address: Some(address) });
        }
        None => {
            ("no answer in time".to_owned(), "can that DNS server be reached? name another one in /etc/resolv.conf")
        }
        Some(Err(error)) => (error.to_string(), SPELLED),
        Some(Ok(None)) => (String::new(), SPELLED),
    };
    let servers = name_servers();
    let mend = match (is_local, servers.is_empty()) {
        (true, _) => LOCAL,
        (false, true) => "name a DNS server in /etc/resolv.conf, or the host in /etc/hosts",
        (false, false) => mend,
    };
    let servers = if servers.is_empty() { "none is named" } else { &servers };
    let seen = [of, &host, " has no address: ", &error, " (/etc/resolv.conf: ", servers, ")"];
    desk.fail(Check::Dns, &seen, mend);
    None
}

const SPELLED: &str = "is it spelled right? otherwise see what that DNS server says: nslookup NAME";

const LOCAL: &str = "names under .local are mDNS, which a static binary does not ask: use the address, a name of your DNS, or /etc/hosts";

/// What musl's resolver asks: the first three of `/etc/resolv.conf`, and nothing else.
fn name_servers() -> String {
    let mut servers = String::new();
    for line in read("/etc/resolv.conf").unwrap_or_default().lines() {
        if let Some(server) = line.trim().strip_prefix("nameserver") {
            servers.push_str(server);
        }
    }
    servers.trim().to_owned()
}

/// What is wrong on the way, at which check.
struct Fault(Check, String, &'static str);

struct Way<'a> {
    patient: &'a Patient,
    desk: &'a Desk,
    profile: Profile,
    hop: Hop,
    is_registered: bool,
    /// Whether it is http, to this machine.
    is_plain: bool,
}

impl Way<'_> {
    /// Makes one request, says what became of each step, and gives the date of the answer.
    fn ask(&self, endpoint: &Endpoint, credential: Option<&Credential>) -> Option<SystemTime> {
        // One that is connected has been let in a moment ago, and need not be disturbed by a second poll.
        let is_origin = |credential: &&Credential| {
            Endpoint::parse(&credential.endpoint, self.patient.config.plain_http)
                .is_ok_and(|issued| issued.origin() == endpoint.origin())
        };
        let credential = credential.filter(is_origin).filter(|_| self.patient.connected().is_none());
        let request = request(endpoint, credential)?;
        let line = Line::new(self.profile.clone());
        let time = self.patient.time();
        let asked = within(time, move || line.run(request, Patience::Answer(time)));
        let date = match &asked {
            // Over TLS whoever dates it was verified; without, it is this machine.
            Some(Ok(answer)) => date_of(answer),
            _ => None,
        };
        let fault = match asked {
            Some(Ok(answer)) => self.answered(answer, credential.is_some()),
            Some(Err(error)) => Some(self.place(&error)),
            None => Some(self.place(&NetError::Timeout("waiting"))),
        };
        self.tell(fault.as_ref());
        date
    }

    /// At which step a call broke off.
    fn place(&self, error: &NetError) -> Fault {
        let Bytes { sent, received } = self.profile.meter.total();
        let is_verified = self.profile.tls.server_chain().is_some();
        let is_proxy = self.hop.is_proxy;
        let place = self.hop.place();
        // What rustls says beneath is the same once more, for whoever knows rustls.
        let text = if matches!(error, NetError::Tls(_)) { error.to_string() } else { chain(error) };
        let (first, reach) = if is_proxy {
            (Check::Proxy, "is proxy (or HTTPS_PROXY) right, and does it run? proxy = \"none\" goes straight")
        } else {
            (Check::Tcp, "is the port right? does a firewall let this node out, or is there a proxy to be set?")
        };
        let (check, seen, mend): (_, &[&str], _) = match error {
            NetError::Proxy(reason) => return proxy_fault(&place, reason),
            NetError::Tls(rustls::Error::AlertReceived(_)) if is_verified => {
                let mend = if self.profile.tls.client_life().is_some() {
                    "have the control plane trust it, or give another one: client_cert (docs/mtls.md)"
                } else {
                    "it may want a client certificate: set client_cert and client_key, or mtls = true (docs/mtls.md)"
                };
                (Check::Certificate, &["the control plane refuses what we show: ", &text], mend)
            }
            NetError::Tls(error) => {
                let issuer = self.profile.tls.refused_issuer().unwrap_or_default();
                let by = if issuer.is_empty() { "" } else { "; it says it is by " };
                return Fault(Check::Tls, [&text, by, &issuer].concat(), tls_mend(error));
            }
            NetError::Connect(_) | NetError::NameNotFound(_) => (first, &[&place, ": ", &text], reach),
            _ if is_verified => (
                Check::Protocol,
                &["TLS is fine, but then: ", &text],
                "look at the control plane, and at what stands before it",
            ),
            NetError::Timeout(_) if sent == 0 => (first, &[&place, " neither takes nor refuses a connection"], reach),
            _ if received < TUNNEL && is_proxy => {
                (Check::Proxy, &[&place, " does not answer as a proxy: ", &text], "is this the port of an HTTP proxy?")
            }
            _ => {
                let (check, seen) = if self.is_plain {
                    (Check::Protocol, "connected, but there is no answer: ")
                } else {
                    (Check::Tls, "connected, but there is no TLS: ")
                };
                return Fault(check, [seen, &text].concat(), "is this the port of the control plane?");
            }
        };
        Fault(check, seen.concat(), mend)
    }

    /// What an answer means; the bearer was shown, or none.
    fn answered(&self, answer: Response<Body>, is_bearer_shown: bool) -> Option<Fault> {
        let status = answer.status();
        let is_ours =
            answer.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).is_some_and(|value| {
                value.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case(MEDIA_TYPE)
            });
        let time = self.patient.time();
        // What jobs there are is nobody's business here.
        let said: Option<ErrorBody> = if status == StatusCode::OK {
            None
        } else {
            let body = within(time, move || answer.into_body().read_all());
            body.and_then(Result::ok).and_then(|body| json::read(&body).ok())
        };
        let (seen, mend) = match status {
            StatusCode::OK if is_ours && is_bearer_shown => return None,
            StatusCode::UNAUTHORIZED if is_ours && said.is_some() && !is_bearer_shown => return None,
            StatusCode::UNAUTHORIZED if is_ours && said.is_some() => (
                "the control plane does not accept the credential",
                "pullet register --force, with a new one-time token",
            ),
            StatusCode::FORBIDDEN if is_ours && said.is_some() => (
                "the control plane does not let this agent act for this cluster",
                "restore its access there, or register anew",
            ),
            StatusCode::NOT_FOUND => ("there is no agent API there", "check the path of endpoint"),
            StatusCode::TOO_MANY_REQUESTS => ("the control plane is busy", "wait; the agent does so by itself"),
            _ if status.is_server_error() => (
                "the control plane, or what stands before it, is broken or busy",
                "look there; the agent tries it again by itself",
            ),
            _ if status.is_redirection() => {
                ("a redirect, which is not followed", "write where it leads to into endpoint")
            }
            _ => (
                "something answered that is not the control plane",
                "a captive portal, a filter or a proxy is in between, or endpoint names another server",
            ),
        };
        Some(Fault(Check::Protocol, [seen, " (", status.as_str(), ")"].concat(), mend))
    }

    /// Says how each step went: those before the fault well, those behind it not at all.
    fn tell(&self, fault: Option<&Fault>) {
        let Self { desk, .. } = self;
        let mut steps = BEHIND.iter();
        for step in steps.by_ref() {
            match fault {
                Some(Fault(check, seen, mend)) if check == step => {
                    desk.fail(*check, &[seen], mend);
                    break;
                }
                _ => self.tell_good(*step),
            }
        }
        if let Some(Fault(cause, ..)) = fault {
            for step in steps {
                // Ours can be looked at without a connection.
                if *step == Check::Certificate && self.profile.tls.client_life().is_some() {
                    self.tell_certificate();
                } else {
                    desk.skip_because(&[*step], *cause);
                }
            }
        }
    }

    fn tell_good(&self, step: Check) {
        let Self { desk, patient, hop, .. } = self;
        let place = hop.place();
        match step {
            Check::Proxy if hop.is_proxy => desk.ok(step, &[&place, " lets us through"]),
            Check::Proxy => desk.ok(step, &["none: the way is straight"]),
            Check::Tcp if hop.is_proxy => desk.ok(step, &["connected, through the proxy"]),
            Check::Tcp => desk.ok(step, &["connected to ", &place]),
            Check::Tls => self.tell_tls(),
            Check::Certificate => self.tell_certificate(),
            _ => {
                let known = match (patient.connected().is_some(), self.is_registered) {
                    (true, _) => "; the running agent is let in",
                    (false, true) => " and accepts the credential",
                    (false, false) => "; there is no credential to show yet",
                };
                desk.ok(step, &["the agent API answers", known]);
            }
        }
    }

    fn tell_tls(&self) {
        let Some((end, issuer)) = self.profile.tls.server_chain() else {
            return self.desk.say(Check::Tls, Verdict::Note, &["none: plain http to this machine"], "for tests only");
        };
        let left = end.saturating_sub(clock::unix_seconds());
        let (verdict, mend) = if left < limits::doctor::CERTIFICATE_NEAR {
            (Verdict::Warning, "have the certificate of the control plane renewed before that")
        } else {
            (Verdict::Ok, "")
        };
        let seen = ["the server's certificate, by ", &issuer.unwrap_or_default(), ", is good for ", &span(left)];
        self.desk.say(Check::Tls, verdict, &seen, mend);
    }

    fn tell_certificate(&self) {
        let (desk, check) = (self.desk, Check::Certificate);
        let Some((begin, end)) = self.profile.tls.client_life() else {
            return desk.skip(check, &["no client certificate is set"]);
        };
        let now = clock::unix_seconds();
        let mend = if self.patient.config.mtls {
            "the agent asks for another one by itself; if it gets none: docs/mtls.md"
        } else {
            "renew the files of client_cert and client_key, or of the Secret; the agent takes them by itself"
        };
        let left = span(end.abs_diff(now));
        if now > end {
            desk.fail(check, &["ours ended ", &left, " ago"], mend);
        } else if begin > now {
            desk.fail(check, &["ours is not valid yet"], "set the clock, or give another one");
        } else if end - now < (end - begin) / 10 {
            // It should have been renewed by then.
            desk.warn(check, &["ours ends in ", &left], mend);
        } else {
            desk.ok(check, &["ours is good for ", &left]);
        }
    }
}

fn tls_mend(error: &rustls::Error) -> &'static str {
    use rustls::CertificateError as Wrong;
    let rustls::Error::InvalidCertificate(wrong) = error else {
        return "is this the port of the control plane, and does it speak TLS 1.2 or newer?";
    };
    match wrong {
        Wrong::Expired | Wrong::ExpiredContext { .. } => {
            "have it renewed; if it is not old, set the clock of this node"
        }
        Wrong::NotValidYet | Wrong::NotValidYetContext { .. } => "set the clock of this node",
        Wrong::NotValidForName | Wrong::NotValidForNameContext { .. } => "write the name into endpoint that it is for",
        Wrong::UnknownIssuer | Wrong::BadSignature => {
            "if that authority is yours: ca_file; if a filter reads along: have it let this name pass unread"
        }
        _ => "have the control plane show another one",
    }
}

/// What a proxy said instead of opening a tunnel; a code among it is one of HTTP.
fn proxy_fault(place: &str, reason: &str) -> Fault {
    let code = reason.split(|c: char| !c.is_ascii_digit()).find(|digits| digits.len() == 3).unwrap_or_default();
    let (check, seen, mend) = match code {
        "502" | "503" | "504" => {
            (Check::Tcp, " does not reach the control plane: ", "may the proxy go there? ask whoever runs it")
        }
        "407" => (Check::Proxy, " wants a user and a password: ", "proxy = \"http://user:password@host:port\""),
        "" => (
            Check::Proxy,
            " does not let us through: ",
            "is this the port of an HTTP proxy? proxy = \"none\" goes straight",
        ),
        _ => (
            Check::Proxy,
            " refuses the tunnel: ",
            "have it allow CONNECT to the control plane, or set proxy = \"none\"",
        ),
    };
    Fault(check, ["the proxy ", place, seen, if code.is_empty() { reason } else { code }].concat(), mend)
}

/// A poll as short as one can be. Without a bearer nothing is answered but who is there.
fn request(endpoint: &Endpoint, credential: Option<&Credential>) -> Option<Request<Vec<u8>>> {
    let url = match credential {
        Some(credential) => endpoint.url(&["jobs?cluster=", credential.cluster_id.as_str(), "&wait=1"].concat()),
        None => endpoint.url("jobs"),
    };
    let mut request = Request::get(url).header(ACCEPT, MEDIA_TYPE).body(Vec::new()).ok()?;
    if let Some(credential) = credential {
        let text = zeroize::Zeroizing::new(["Bearer ", credential.current.token.expose()].concat());
        let mut value = HeaderValue::from_str(&text).ok()?;
        value.set_sensitive(true);
        request.headers_mut().insert(AUTHORIZATION, value);
    }
    Some(request)
}

fn date_of(answer: &Response<Body>) -> Option<SystemTime> {
    httpdate::parse_http_date(answer.headers().get(DATE)?.to_str().ok()?).ok()
}

/// What the date of an answer, the floor and a time service say of the clock.
fn judge_clock(patient: &Patient, desk: &Desk, date: Option<SystemTime>) {
    const SET: &str = "set the clock: timedatectl set-ntp true, or by hand with date -s";
    let check = Check::Clock;
    let seconds = |time: SystemTime| time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
    let system = seconds(clock::system());
    let tolerance = limits::CLOCK_TOLERANCE.as_secs();
    let standing = clock::standing();
    if let Some(date) = date.map(seconds).filter(|date| date.abs_diff(system) > tolerance) {
        let direction = if date > system { " behind" } else { " ahead of" };
        return desk.fail(check, &["it is ", &span(date.abs_diff(system)), direction, " the control plane"], SET);
    }
    let by = if standing == Standing::Synchronised { "a time service keeps it" } else { "no time service keeps it" };
    match standing {
        Standing::Doubtful(_) if system.saturating_add(tolerance) < clock::floor() => {
            desk.fail(check, &["it stands before this program was built"], SET);
        }
        Standing::Doubtful(offset) => desk.fail(
            check,
            &["it is ", &span(offset.unsigned_abs()), " behind a time that was confirmed before"],
            "set it; if it is right, that was wrong: stop the agent, pullet doctor --reset-clock",
        ),
        _ if patient.agent.as_ref().is_ok_and(|status| status.clock == "doubtful") => desk.warn(
            check,
            &["the running agent doubts it, and holds back jobs that expire"],
            "a time service ends that at once",
        ),
        _ if date.is_some() => desk.ok(check, &["it agrees with the control plane; ", by]),
        Standing::Synchronised => desk.ok(check, &[by]),
        _ => desk.skip(check, &["nobody was heard who could confirm it"]),
    }
}
