//! The way to the control plane: where it is, the name of the first hop, then one request as the agent makes them, and what
//! became of it.
//!
//! One connection, and not one a check: how far it got is told by its fault, by the bytes that went over it, and by whether a
//! certificate was verified. A proxy that swallows everything, a server that never speaks and an answer that never comes look
//! alike otherwise.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
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
    let credential = disk::credential(&patient.config).ok().flatten();
    let Some(endpoint) = endpoint(patient, desk, credential.as_ref()) else {
        desk.skip(Check::Dns, "because of endpoint");
        desk.skip_because(&BEHIND, Check::Endpoint);
        return judge_clock(patient, desk, None);
    };
    let profile = match profile(patient, credential.as_ref()) {
        Ok(profile) => profile,
        Err((check, error)) => {
            desk.say(check, Verdict::Failed, chain(&error), "mend the file that is named: ca_file, client_cert or client_key");
            desk.skip(Check::Dns, "because nothing can be asked without the files of TLS");
            for other in BEHIND.into_iter().filter(|other| *other != check) {
                desk.skip_because(&[other], check);
            }
            return judge_clock(patient, desk, None);
        }
    };
    let Ok(uri) = endpoint.url("jobs").parse::<Uri>() else { return };
    let Some(hop) = first_hop(patient, desk, &profile, &uri) else {
        desk.skip_because(&BEHIND, Check::Dns);
        return judge_clock(patient, desk, None);
    };
    let way = Way { patient, desk, profile, hop, is_registered: credential.is_some() };
    let date = way.ask(&endpoint, credential.as_ref());
    judge_clock(patient, desk, date);
}

/// Where the control plane is: as it is set, as it was registered, or as a Cluster says.
fn endpoint(patient: &Patient, desk: &Desk, credential: Option<&Credential>) -> Option<Endpoint> {
    let config = &patient.config;
    let parse = |text: &str| Endpoint::parse(text, config.plain_http).ok();
    let stored = credential.and_then(|credential| parse(&credential.endpoint));
    let running = patient.agent.as_ref().ok().and_then(|status| parse(&status.endpoint));
    let cluster = || disk::clusters_endpoint(config).and_then(|text| parse(&text));
    let found = match (&config.endpoint, stored) {
        (Some(set), Some(stored)) if set.origin() != stored.origin() => {
            let seen = format!("{set} is set, but the credential was issued by {stored} and is sent nowhere else");
            desk.say(Check::Endpoint, Verdict::Failed, seen, "set endpoint back, or register there: pullet register --force");
            return Some(set.clone());
        }
        (Some(set), _) => Some((set.clone(), "")),
        (None, Some(stored)) => Some((stored, ", as this node was registered")),
        (None, None) => {
            running.or_else(cluster).map(|endpoint| (endpoint, ", as the Cluster says"))
        }
    };
    let Some((endpoint, source)) = found else {
        if config.cluster_resource.is_some() {
            let seen = "no Cluster says where the control plane is, or the API server does not tell";
            desk.say(Check::Endpoint, Verdict::Failed, seen, "kubectl get clusters shows which there are (docs/cluster.md); see api-server below");
            return None;
        }
        let mend = "set endpoint in /etc/pullet/pullet.toml (doctor --config names another file), or give --endpoint https://…";
        desk.say(Check::Endpoint, Verdict::Failed, "nothing says where the control plane is", mend);
        return None;
    };
    desk.ok(Check::Endpoint, [&endpoint.to_string(), source].concat());
    Some(endpoint)
}

/// How the agent connects. The check is the one that a fault of the files belongs to.
fn profile(patient: &Patient, credential: Option<&Credential>) -> Result<Profile, (Check, TlsFileError)> {
    let config = disk::with_bundle(&patient.config);
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
    if let Some(credential) = credential.filter(|_| config.mtls) {
        credential.certificates.show(&profile.tls);
    }
    Ok(profile)
}

/// The next machine on the way.
struct Hop {
    is_proxy: bool,
    host: String,
    port: u16,
    addresses: Vec<SocketAddr>,
}

impl Hop {
    fn place(&self) -> String {
        let address = self.addresses.first().filter(|address| address.ip().to_string() != self.host);
        match address {
            Some(address) => format!("{}:{} ({})", self.host, self.port, address.ip()),
            None => format!("{}:{}", self.host, self.port),
        }
    }
}

/// Resolves the name of the next machine, as the agent would.
fn first_hop(patient: &Patient, desk: &Desk, profile: &Profile, uri: &Uri) -> Option<Hop> {
    let proxy = profile.proxy.hop(uri);
    let is_proxy = proxy.is_some();
    let port = uri.port_u16().unwrap_or(if uri.scheme_str() == Some("http") { 80 } else { 443 });
    let (host, port) = proxy.unwrap_or_else(|| (uri.host().unwrap_or_default().to_owned(), port));
    let host = host.trim_matches(['[', ']']).to_owned();
    let of = if is_proxy { "the proxy's name " } else { "" };
    let left = if is_proxy { "; the name of the control plane is left to the proxy" } else { "" };
    if let Ok(address) = host.parse::<IpAddr>() {
        desk.ok(Check::Dns, [of, &host, " is an address, there is nothing to ask for", left].concat());
        return Some(Hop { is_proxy, host, port, addresses: vec![SocketAddr::new(address, port)] });
    }
    let name = host.clone();
    let asked = within(patient.time(), move || (name.as_str(), port).to_socket_addrs().map(Vec::from_iter));
    let is_local = host.to_ascii_lowercase().ends_with(".local");
    let (error, mend) = match asked {
        Some(Ok(addresses)) if !addresses.is_empty() => {
            let mut ips: Vec<String> = addresses.iter().map(|address| address.ip().to_string()).collect();
            ips.dedup();
            ips.truncate(4);
            let seen = [of, &host, " is ", &ips.join(", "), left].concat();
            if is_local && cfg!(target_env = "gnu") {
                desk.say(Check::Dns, Verdict::Note, seen, LOCAL);
            } else {
                desk.ok(Check::Dns, seen);
            }
            return Some(Hop { is_proxy, host, port, addresses });
        }
        None => ("there was no answer in time".to_owned(), "see whether that DNS server can be reached, or name another one in /etc/resolv.conf"),
        Some(Err(error)) => (error.to_string(), "is it spelled right? otherwise see what that DNS server says: nslookup NAME"),
        Some(Ok(_)) => ("no address".to_owned(), "is it spelled right? otherwise see what that DNS server says: nslookup NAME"),
    };
    let servers = name_servers();
    let mend = match (is_local, servers.is_empty()) {
        (true, _) => LOCAL,
        (false, true) => "name a DNS server in /etc/resolv.conf (nameserver 192.0.2.1), or the host in /etc/hosts",
        (false, false) => mend,
    };
    let asked = if servers.is_empty() {
        "/etc/resolv.conf names no DNS server".to_owned()
    } else {
        ["asked: ", &servers.join(", "), ", of /etc/resolv.conf"].concat()
    };
    desk.say(Check::Dns, Verdict::Failed, format!("{of}{host} has no address: {error} ({asked})"), mend);
    None
}

const LOCAL: &str = "names under .local are not DNS (mDNS answers for them), and a static binary does not ask for them: use the address, \
                     a name of your DNS, or a line in /etc/hosts";

/// What musl's resolver asks: the first three of `/etc/resolv.conf`, and nothing else.
fn name_servers() -> Vec<String> {
    let text = read("/etc/resolv.conf").unwrap_or_default();
    let servers = text.lines().filter_map(|line| line.trim().strip_prefix("nameserver"));
    servers.filter_map(|rest| rest.split_whitespace().next()).take(3).map(str::to_owned).collect()
}

/// What is wrong on the way, at which check.
struct Fault(Check, String, &'static str);

struct Way<'a> {
    patient: &'a Patient,
    desk: &'a Desk,
    profile: Profile,
    hop: Hop,
    is_registered: bool,
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
        let first = if self.hop.is_proxy { Check::Proxy } else { Check::Tcp };
        let place = self.hop.place();
        let text = chain(error);
        let unreachable = if self.hop.is_proxy {
            "is the proxy right (proxy, HTTPS_PROXY), and does it run? proxy = \"none\" goes straight"
        } else {
            "is the port right, and does a firewall let this node out? where there is a proxy, set it: proxy = \"http://…\""
        };
        match error {
            NetError::Proxy(reason) => proxy_fault(&place, reason),
            NetError::Tls(rustls::Error::AlertReceived(_)) if is_verified => self.certificate_refused(&text),
            NetError::Tls(error) => self.tls_fault(error, &text),
            NetError::Connect(cause) => Fault(first, format!("no connection to {place}: {cause}"), unreachable),
            NetError::NameNotFound(_) => Fault(first, text, unreachable),
            _ if is_verified => Fault(
                Check::Protocol,
                format!("TLS is fine, but then: {text}"),
                "look at the control plane, and at what stands before it: it does not answer as it should",
            ),
            NetError::Timeout(_) if sent == 0 => {
                Fault(first, format!("{place} does not take a connection, and does not refuse it either"), unreachable)
            }
            NetError::Timeout(_) if received < TUNNEL && self.hop.is_proxy => Fault(
                Check::Proxy,
                format!("{place} takes the connection and does not answer CONNECT"),
                "is this the port of an HTTP proxy? restart the proxy, or go straight: proxy = \"none\"",
            ),
            _ if received < TUNNEL && self.hop.is_proxy => Fault(
                Check::Proxy,
                format!("{place} does not answer as a proxy: {text}"),
                "is this the port of an HTTP proxy?",
            ),
            _ => Fault(
                Check::Tls,
                format!("connected, but there is no TLS: {text}"),
                "is this the port of the control plane? a firewall may also swallow what follows the connection",
            ),
        }
    }

    fn certificate_refused(&self, text: &str) -> Fault {
        let (seen, mend) = match self.profile.tls.client_life() {
            Some(_) => (
                format!("the control plane refuses our client certificate: {text}"),
                "have the control plane trust its authority, or give another one: client_cert and client_key (docs/mtls.md)",
            ),
            None => (
                format!("the control plane may want a client certificate, and none is set: {text}"),
                "set client_cert and client_key, or mtls = true where the control plane issues one (docs/mtls.md)",
            ),
        };
        Fault(Check::Certificate, seen, mend)
    }

    fn tls_fault(&self, error: &rustls::Error, text: &str) -> Fault {
        use rustls::CertificateError as Wrong;
        let mend = match error {
            rustls::Error::InvalidCertificate(wrong) => match wrong {
                Wrong::Expired | Wrong::ExpiredContext { .. } => {
                    "have the certificate of the control plane renewed; if it is not old, set the clock of this node"
                }
                Wrong::NotValidYet | Wrong::NotValidYetContext { .. } => {
                    "set the clock of this node; if it is right, the certificate of the control plane begins later"
                }
                Wrong::NotValidForName | Wrong::NotValidForNameContext { .. } => {
                    "write the name into endpoint that the certificate is for, or have a certificate made for this one"
                }
                Wrong::UnknownIssuer | Wrong::BadSignature => {
                    "put that authority into ca_file if it is yours; if a filter reads along, have it let this name pass unread"
                }
                _ => "have the control plane show another certificate",
            },
            _ => "is this the port of the control plane, and does it speak TLS 1.2 or newer?",
        };
        let issuer = self.profile.tls.refused_issuer();
        let by = issuer.map(|issuer| format!("; the certificate says it is by {issuer:?}")).unwrap_or_default();
        Fault(Check::Tls, format!("{text}{by}"), mend)
    }

    /// What an answer means; the bearer was shown, or none.
    fn answered(&self, answer: Response<Body>, is_bearer_shown: bool) -> Option<Fault> {
        let status = answer.status();
        let is_ours = answer
            .headers()
            .get(CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .is_some_and(|value| value.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case(MEDIA_TYPE));
        let time = self.patient.time();
        // What jobs there are is nobody's business here.
        let said: Option<ErrorBody> = if status == StatusCode::OK {
            None
        } else {
            let body = within(time, move || answer.into_body().read_all());
            body.and_then(Result::ok).and_then(|body| json::read(&body).ok())
        };
        let stranger = || {
            Some(Fault(
                Check::Protocol,
                format!("something answered that is not the control plane ({status})"),
                "a captive portal, a filter or a proxy stands in between, or endpoint names another server",
            ))
        };
        let fault = |seen: &str, mend| Some(Fault(Check::Protocol, format!("{seen} ({status})"), mend));
        match status {
            StatusCode::OK if is_ours && is_bearer_shown => None,
            StatusCode::UNAUTHORIZED if is_ours && said.is_some() && !is_bearer_shown => None,
            StatusCode::UNAUTHORIZED if is_ours && said.is_some() => fault(
                "the control plane does not accept the credential",
                "get a new one-time token and register anew: pullet register --force --token-file FILE",
            ),
            StatusCode::FORBIDDEN if is_ours && said.is_some() => fault(
                "the control plane does not let this agent act for this cluster",
                "restore its access there, or register anew: pullet register --force --token-file FILE",
            ),
            StatusCode::NOT_FOUND => fault("there is no agent API there", "check the path of endpoint"),
            StatusCode::TOO_MANY_REQUESTS => fault("the control plane is busy", "wait; the agent does so by itself"),
            _ if status.is_server_error() => fault(
                "the control plane is broken or busy, or what stands before it",
                "look at the control plane; the agent tries it again by itself",
            ),
            _ if status.is_redirection() => {
                fault("it answers with a redirect, which is not followed", "write the address it leads to into endpoint")
            }
            _ => stranger(),
        }
    }

    /// Says how each step went: those before the fault well, those behind it not at all.
    fn tell(&self, fault: Option<&Fault>) {
        let Self { desk, .. } = self;
        let mut steps = BEHIND.iter();
        for step in steps.by_ref() {
            match fault {
                Some(Fault(check, seen, mend)) if check == step => {
                    desk.say(*check, Verdict::Failed, seen.as_str(), mend);
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
            Check::Proxy if hop.is_proxy => desk.ok(step, [&place, " lets us through"].concat()),
            Check::Proxy => desk.ok(step, "none: the way is straight"),
            Check::Tcp if hop.is_proxy => desk.ok(step, "connected, through the proxy"),
            Check::Tcp => desk.ok(step, ["connected to ", &place].concat()),
            Check::Tls => self.tell_tls(),
            Check::Certificate => self.tell_certificate(),
            _ => match patient.connected() {
                Some(status) => {
                    let age = status.connection.last_answer.map_or(0, |at| since(at.unix_seconds()));
                    desk.ok(step, ["the agent API answers; the running agent was let in ", &span(age), " ago"].concat());
                }
                None if self.is_registered => desk.ok(step, "the agent API answers and accepts the credential"),
                None => desk.ok(step, "the agent API answers; there is no credential to show yet"),
            },
        }
    }

    fn tell_tls(&self) {
        let Some((end, issuer)) = self.profile.tls.server_chain() else {
            return self.desk.say(Check::Tls, Verdict::Note, "none: plain http to this machine", "for tests only");
        };
        let left = end.saturating_sub(clock::unix_seconds());
        let by = issuer.map(|issuer| format!(", by {issuer:?}")).unwrap_or_default();
        let seen = format!("the server's certificate is good for {}{by}", span(left));
        if left < limits::doctor::CERTIFICATE_NEAR {
            self.desk.say(Check::Tls, Verdict::Warning, seen, "have the certificate of the control plane renewed before that");
        } else {
            self.desk.ok(Check::Tls, seen);
        }
    }

    fn tell_certificate(&self) {
        let desk = self.desk;
        let Some((begin, end)) = self.profile.tls.client_life() else {
            return desk.skip(Check::Certificate, "no client certificate is set");
        };
        let (now, is_issued) = (clock::unix_seconds(), self.patient.config.mtls);
        let mend = if is_issued {
            "the agent asks for another one by itself; if it does not get one, see docs/mtls.md"
        } else {
            "renew the files of client_cert and client_key; the agent takes them by itself"
        };
        if now > end {
            let seen = ["the client certificate ended ", &span(now - end), " ago"].concat();
            desk.say(Check::Certificate, Verdict::Failed, seen, mend);
        } else if begin > now {
            let seen = ["the client certificate begins in ", &span(begin - now)].concat();
            desk.say(Check::Certificate, Verdict::Failed, seen, "set the clock of this node, or give another certificate");
        } else {
            let seen = ["the client certificate is good for ", &span(end - now)].concat();
            // A tenth of its life: it should have been renewed by then.
            let is_late = end - now < (end - begin) / 10;
            desk.say(Check::Certificate, if is_late { Verdict::Warning } else { Verdict::Ok }, seen, if is_late { mend } else { "" });
        }
    }
}

fn proxy_fault(place: &str, reason: &str) -> Fault {
    let code = reason.split(|c: char| !c.is_ascii_digit()).find(|digits| digits.len() == 3).unwrap_or_default();
    match code {
        "502" | "503" | "504" => Fault(
            Check::Tcp,
            format!("the proxy {place} does not reach the control plane ({code})"),
            "is the address right, and may the proxy go there? ask whoever runs the proxy",
        ),
        "407" => Fault(
            Check::Proxy,
            format!("{place} wants a user and a password (407), or does not take those it was given"),
            "write them into the address: proxy = \"http://user:password@host:port\"",
        ),
        "" => Fault(
            Check::Proxy,
            format!("{place} does not let us through: {reason}"),
            "is this the port of an HTTP proxy, and does it run? proxy = \"none\" goes straight",
        ),
        _ => Fault(
            Check::Proxy,
            format!("{place} refuses the tunnel ({code})"),
            "have the proxy allow CONNECT to the control plane's host and port, or go straight: proxy = \"none\"",
        ),
    }
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

fn since(unix_seconds: i64) -> u64 {
    clock::unix_seconds().saturating_sub(u64::try_from(unix_seconds).unwrap_or(0))
}

/// What the date of an answer, the floor and a time service say of the clock.
fn judge_clock(patient: &Patient, desk: &Desk, date: Option<SystemTime>) {
    const SET: &str = "set the clock: timedatectl set-ntp true, or by hand with date -s";
    let seconds = |time: SystemTime| time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
    let system = seconds(SystemTime::now());
    let tolerance = limits::CLOCK_TOLERANCE.as_secs();
    let standing = clock::standing();
    if let Some(date) = date.map(seconds).filter(|date| date.abs_diff(system) > tolerance) {
        let direction = if date > system { "behind" } else { "ahead of" };
        let seen = format!("it is {} {direction} the control plane", span(date.abs_diff(system)));
        return desk.say(Check::Clock, Verdict::Failed, seen, SET);
    }
    let by = if standing == Standing::Synchronised { "a time service keeps it" } else { "no time service says that it is right" };
    match standing {
        Standing::Doubtful(_) if system.saturating_add(tolerance) < clock::floor() => {
            desk.say(Check::Clock, Verdict::Failed, "it stands before the time when this program was built", SET);
        }
        Standing::Doubtful(offset) => desk.say(
            Check::Clock,
            Verdict::Failed,
            format!("it is {} behind a time that was confirmed before", span(offset.unsigned_abs())),
            "set the clock; if it is right, what was confirmed was wrong: stop the agent, pullet doctor --reset-clock",
        ),
        _ if patient.agent.as_ref().is_ok_and(|status| status.clock == "doubtful") => desk.say(
            Check::Clock,
            Verdict::Warning,
            "the running agent has reason to doubt it, and holds back jobs that expire",
            "it ends with two dates of the control plane 10 minutes apart; a time service ends it at once",
        ),
        _ if date.is_some() => desk.ok(Check::Clock, ["it agrees with the control plane; ", by].concat()),
        Standing::Synchronised => desk.ok(Check::Clock, by),
        _ => desk.skip(Check::Clock, "nobody was heard who could confirm it"),
    }
}
