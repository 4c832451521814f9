//! The way out: straight, or through a proxy.

use std::fmt;

use super::connector::has_good_port;

/// How a line gets out.
#[derive(Clone)]
pub enum ProxySetting {
    /// Straight to the server.
    Direct,
    /// Through this proxy, but for the hosts of `NO_PROXY`.
    Through(ureq::Proxy),
}

/// The URL is none that a proxy can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidProxy;

impl fmt::Display for InvalidProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a proxy URL such as http://proxy.example:3128 (http and https proxies are supported)")
    }
}

impl std::error::Error for InvalidProxy {}

impl ProxySetting {
    /// Reads a configured proxy. `none` and the empty text mean none, whatever the environment says.
    /// `no_proxy` is the value of `NO_PROXY`.
    ///
    /// # Errors
    /// When the URL cannot be used.
    pub fn parse(url: &str, no_proxy: Option<&str>) -> Result<Self, InvalidProxy> {
        if url.is_empty() || url == "none" {
            return Ok(Self::Direct);
        }
        let parsed = ureq::Proxy::new(url).map_err(|_| InvalidProxy)?;
        if !parsed.uri().authority().is_some_and(has_good_port) {
            return Err(InvalidProxy);
        }
        let protocol @ (ureq::ProxyProtocol::Http | ureq::ProxyProtocol::Https) = parsed.protocol() else {
            return Err(InvalidProxy);
        };
        let mut builder = ureq::Proxy::builder(protocol).host(parsed.host()).port(parsed.port());
        if let Some(username) = parsed.username() {
            builder = builder.username(username);
        }
        if let Some(password) = parsed.password() {
            builder = builder.password(password);
        }
        for host in no_proxy.unwrap_or_default().split(',').map(str::trim) {
            if !host.is_empty() {
                builder = builder.no_proxy(host);
            }
        }
        builder.build().map(Self::Through).map_err(|_| InvalidProxy)
    }

    /// Reads `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY`, in either case, as `variable` gives them.
    ///
    /// # Errors
    /// When the URL cannot be used.
    pub fn from_environment(variable: impl Fn(&str) -> Option<String>) -> Result<Self, InvalidProxy> {
        let either = |name: &str| variable(name).or_else(|| variable(&name.to_lowercase()));
        let url = either("HTTPS_PROXY").or_else(|| either("ALL_PROXY")).unwrap_or_default();
        Self::parse(&url, either("NO_PROXY").as_deref())
    }

    /// Host and port of the proxy on the way to `uri`; none where the way is straight.
    #[must_use]
    pub fn hop(&self, uri: &http::Uri) -> Option<(String, u16)> {
        match self {
            Self::Through(proxy) if uri.scheme() == Some(&http::uri::Scheme::HTTPS) && !proxy.is_no_proxy(uri) => {
                Some((proxy.host().to_owned(), proxy.port()))
            }
            _ => None,
        }
    }

    pub(super) fn into_ureq(self) -> Option<ureq::Proxy> {
        match self {
            Self::Direct => None,
            Self::Through(proxy) => Some(proxy),
        }
    }
}

/// Prints no password.
impl fmt::Debug for ProxySetting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Direct => f.write_str("direct"),
            Self::Through(proxy) => write!(f, "{}:{}", proxy.host(), proxy.port()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{InvalidProxy, ProxySetting};

    #[test]
    fn reads_a_url_and_hides_its_password() {
        let proxy = ProxySetting::parse("http://user:geheim@proxy.example:3128", None).unwrap();
        assert_eq!(format!("{proxy:?}"), "proxy.example:3128");
    }

    #[test]
    fn none_wins_over_the_environment() {
        assert!(matches!(ProxySetting::parse("none", None), Ok(ProxySetting::Direct)));
        assert!(matches!(ProxySetting::parse("", None), Ok(ProxySetting::Direct)));
    }

    #[test]
    fn the_environment_is_read_in_either_case() {
        let variable = |name: &str| (name == "https_proxy").then(|| "http://p:1".to_owned());
        assert_eq!(format!("{:?}", ProxySetting::from_environment(variable).unwrap()), "p:1");
    }

    #[test]
    fn a_host_of_no_proxy_goes_straight() {
        let variable = |name: &str| match name {
            "ALL_PROXY" => Some("http://p:1".to_owned()),
            "NO_PROXY" => Some("a.example, .b.example".to_owned()),
            _ => None,
        };
        let Ok(ProxySetting::Through(proxy)) = ProxySetting::from_environment(variable) else {
            panic!("no proxy");
        };
        assert!(proxy.is_no_proxy(&"https://a.example/".parse().unwrap()));
        assert!(proxy.is_no_proxy(&"https://x.b.example/".parse().unwrap()));
        assert!(!proxy.is_no_proxy(&"https://c.example/".parse().unwrap()));
        let setting = ProxySetting::from_environment(variable).unwrap();
        let hop = |uri: &str| setting.hop(&uri.parse().unwrap());
        assert_eq!(hop("https://c.example/"), Some(("p".to_owned(), 1)));
        assert_eq!((hop("https://a.example/"), hop("http://c.example/")), (None, None));
    }

    #[test]
    fn refuses_what_is_no_http_proxy() {
        for url in ["socks5://p:1", "ftp://p", "http://", "::", "http://p:99999", "http://p:0", "http://u:w@p:x"] {
            assert!(matches!(ProxySetting::parse(url, None), Err(InvalidProxy)), "{url}");
        }
    }
}
