//! Which callback URLs may be called: those below an admitted prefix. Without one, none.
//!
//! What is compared is the parsed URL that will be called, never its text, so that no second reading of
//! the same text can lead elsewhere.

use reqwest::Url;

const URL_BYTES_MAX: usize = 2_048;

/// The allow-list.
pub(super) struct Admission {
    prefixes: Vec<Url>,
}

impl Admission {
    /// A prefix that cannot be used admits nothing, and is reported.
    pub(super) fn new(allow: &[String]) -> Self {
        let prefix = |text: &String| match parsed(text) {
            Ok(url) if url.query().is_none() => Some(url),
            Ok(_) => {
                tracing::error!(prefix = text, "the callback prefix admits nothing: it has a query");
                None
            }
            Err(why) => {
                tracing::error!(prefix = text, "the callback prefix admits nothing: {why}");
                None
            }
        };
        Self { prefixes: allow.iter().filter_map(prefix).collect() }
    }

    /// The URL to call, or why it is not called.
    pub(super) fn admits(&self, text: &str) -> Result<Url, String> {
        let url = parsed(text)?;
        if self.prefixes.is_empty() {
            return Err("no callback URL is admitted here; the allow-list of the coordinator is empty".into());
        }
        match self.prefixes.iter().any(|prefix| below(prefix, &url)) {
            true => Ok(url),
            false => Err("it is below no URL on the allow-list of the coordinator".into()),
        }
    }
}

fn parsed(text: &str) -> Result<Url, String> {
    if text.len() > URL_BYTES_MAX {
        return Err(format!("it is longer than {URL_BYTES_MAX} bytes"));
    }
    // The parser drops these silently.
    if text.chars().any(|char| char.is_control() || char.is_whitespace() || char == '\\') {
        return Err("it contains a space, a control character or a backslash".into());
    }
    let url = Url::parse(text).map_err(|error| format!("it is not a URL: {error}"))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err("only http and https are called".into());
    }
    // The parser also takes one slash or none, and drops empty credentials.
    let after_scheme = text.split_once("://").filter(|(scheme, _)| scheme.eq_ignore_ascii_case(url.scheme()));
    let authority = after_scheme.and_then(|(_, rest)| rest.split(['/', '?', '#']).next()).unwrap_or_default();
    if authority.is_empty() || authority.contains('@') || !url.username().is_empty() {
        return Err("it needs a host, and must not contain credentials".into());
    }
    if url.fragment().is_some() {
        return Err("it has a fragment, which is never sent".into());
    }
    if escapes(url.path()) {
        return Err("its path could be read in more than one way".into());
    }
    Ok(url)
}

/// Whether some server could read this normalised path as one that leaves its folder.
fn escapes(path: &str) -> bool {
    let lower = path.to_ascii_lowercase();
    let dots = |segment: &str| matches!(segment.split(';').next(), Some("." | ".."));
    ["%2f", "%5c", "%2e", "%25", "%00"].iter().any(|code| lower.contains(code)) || lower.split('/').any(dots)
}

fn below(prefix: &Url, url: &Url) -> bool {
    let same_host = prefix.scheme() == url.scheme()
        && prefix.host() == url.host()
        && prefix.port_or_known_default() == url.port_or_known_default();
    let folder = prefix.path().trim_end_matches('/');
    let rest = url.path().strip_prefix(folder);
    same_host && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_urls_below_a_prefix_are_admitted() {
        let admission = Admission::new(&[
            "http://allowed.example/hooks/".into(),
            "https://other.example:8443".into(),
            "https://user@third.example".into(),
        ]);
        for (url, admitted) in [
            ("http://allowed.example/hooks", true),
            ("http://allowed.example/hooks/orders?tenant=1", true),
            ("HTTP://ALLOWED.example:80/hooks/orders", true),
            ("http://allowed.example/hooks/a/../orders", true),
            ("https://other.example:8443/anything", true),
            ("https://allowed.example/hooks", false),
            ("http://allowed.example/Hooks", false),
            ("http://allowed.example/hooks-of-others", false),
            ("http://allowed.example/", false),
            ("http://allowed.example:8080/hooks", false),
            ("http://allowed.example.evil.example/hooks", false),
            ("http://evil.example/http://allowed.example/hooks", false),
            ("http://allowed.example@evil.example/hooks", false),
            ("http://user:pass@allowed.example/hooks", false),
            ("http://@allowed.example/hooks", false),
            ("http://evil.example\\@allowed.example/hooks", false),
            ("http://evil.example#@allowed.example/hooks", false),
            ("http://allowed.example/hooks/../admin", false),
            ("http://allowed.example/hooks/%2e%2e/admin", false),
            ("http://allowed.example/hooks/..%2fadmin", false),
            ("http://allowed.example/hooks/%252e%252e/admin", false),
            ("http://allowed.example/hooks/..;/admin", false),
            ("http://allowed.example./hooks", false),
            ("http://allow\ted.example/hooks", false),
            ("http:allowed.example/hooks", false),
            ("http:/user@allowed.example/hooks//x", false),
            ("http:/user@allowed.example/hooks/http://x", false),
            ("http:///allowed.example/hooks", false),
            ("https://other.example/anything", false),
            ("https://third.example/", false),
            ("file:///etc/passwd", false),
            ("allowed.example/hooks", false),
            ("", false),
        ] {
            assert_eq!(admission.admits(url).is_ok(), admitted, "{url}: {:?}", admission.admits(url));
        }
        assert!(Admission::new(&[]).admits("http://allowed.example/hooks").is_err());
    }
}
