//! Links of what came through a proxy: absolute ones of its own host are made to lead through the proxy again.
//!
//! Redirects and the attributes of HTML tags that hold addresses are rewritten, as upstream; everything else of a page
//! stays byte for byte. Links to other hosts, relative ones, and those that lead through the proxy already stay.

use std::io::{self, Read as _, Write as _};

use apimachinery::status::Status;
use component_base::serving::{Body, full};
use flate2::Compression;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue, LOCATION};
use http::{Response, StatusCode};
use http_body_util::BodyExt as _;

/// Longest page whose links are rewritten, before and after it is unpacked.
const MAX_PAGE_BYTES: usize = 16 << 20;

/// Attributes that hold addresses, by tag.
const ATTRIBUTES: [(&str, &[&str]); 24] = [
    ("a", &["href"]),
    ("applet", &["codebase"]),
    ("area", &["href"]),
    ("audio", &["src"]),
    ("base", &["href"]),
    ("blockquote", &["cite"]),
    ("body", &["background"]),
    ("button", &["formaction"]),
    ("del", &["cite"]),
    ("embed", &["src"]),
    ("form", &["action"]),
    ("frame", &["longdesc", "src"]),
    ("head", &["profile"]),
    ("html", &["manifest"]),
    ("iframe", &["longdesc", "src"]),
    ("img", &["longdesc", "src", "usemap"]),
    ("input", &["src", "usemap", "formaction"]),
    ("ins", &["cite"]),
    ("link", &["href"]),
    ("object", &["classid", "codebase", "data", "usemap"]),
    ("q", &["cite"]),
    ("script", &["src"]),
    ("source", &["src"]),
    ("video", &["poster", "src"]),
];

/// Elements whose content is text, whatever it looks like.
const TEXT_ELEMENTS: [&str; 4] = ["script", "style", "textarea", "title"];

/// How links of one answer are rewritten.
pub(super) struct Links {
    /// The proxy's own path, without a slash at its end.
    pub(super) prefix: String,
    /// The backend, `host:port`.
    pub(super) backend: String,
    /// The host that the client asked.
    pub(super) asked: String,
}

impl Links {
    /// One link.
    fn rewrite(&self, link: &str) -> String {
        let (host, path) = match link.split_once("//") {
            Some(("" | "http:" | "https:", rest)) => rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len())),
            _ => ("", link),
        };
        if !path.starts_with('/') || (!host.is_empty() && host != self.backend && host != self.asked) {
            return link.to_owned();
        }
        let kept = if !host.is_empty() && host == self.asked { &link[..link.len() - path.len()] } else { "" };
        if path.starts_with(&self.prefix) {
            return format!("{kept}{path}");
        }
        let (path, rest) = path.split_at(path.find(['?', '#']).unwrap_or(path.len()));
        let mut parts: Vec<&str> = Vec::new();
        for part in path.split('/') {
            match part {
                "" | "." => {}
                ".." => drop(parts.pop()),
                part => parts.push(part),
            }
        }
        let slash = if path.ends_with('/') && !parts.is_empty() { "/" } else { "" };
        format!("{kept}{}/{}{slash}{rest}", self.prefix, parts.join("/"))
    }

    /// A page with its links rewritten.
    fn page(&self, page: &str) -> String {
        let mut out = String::with_capacity(page.len() + page.len() / 8);
        let mut rest = page;
        while let Some(at) = rest.find('<') {
            out.push_str(&rest[..at]);
            rest = &rest[at..];
            let plain = if rest.starts_with("<!--") {
                Some(rest.find("-->").map_or(rest.len(), |end| end + 3))
            } else {
                (!rest[1..].starts_with(|c: char| c.is_ascii_alphabetic())).then_some(1)
            };
            let length = plain.unwrap_or_else(|| self.tag(rest, &mut out));
            if plain.is_some() {
                out.push_str(&rest[..length]);
            }
            rest = &rest[length..];
        }
        out.push_str(rest);
        out
    }

    /// Writes a tag (and the content of a text element) that `rest` begins with; its length.
    fn tag(&self, rest: &str, out: &mut String) -> usize {
        let space = |c: char| c.is_ascii_whitespace() || c == '/' || c == '>';
        let name = rest[1..].split(space).next().unwrap_or_default().to_ascii_lowercase();
        let wanted = ATTRIBUTES.iter().find(|(tag, _)| *tag == name).map_or(&[][..], |(_, attributes)| attributes);
        let mut at = 1 + name.len();
        out.push_str(&rest[..at]);
        while let Some(next) = rest[at..].chars().next() {
            if next == '>' {
                out.push('>');
                at += 1;
                break;
            }
            if space(next) {
                out.push(next);
                at += next.len_utf8();
                continue;
            }
            let (key, value, length) = attribute(&rest[at..]);
            match value {
                Some(value) if wanted.iter().any(|w| w.eq_ignore_ascii_case(key)) => {
                    let (before, after) = (value.start, value.end);
                    out.push_str(&rest[at..at + before]);
                    out.push_str(&self.rewrite(&rest[at + before..at + after]));
                    out.push_str(&rest[at + after..at + length]);
                }
                _ => out.push_str(&rest[at..at + length]),
            }
            at += length;
        }
        if TEXT_ELEMENTS.contains(&name.as_str()) {
            let end = format!("</{name}");
            let content = &rest.as_bytes()[at..];
            let found = content.windows(end.len()).position(|w| w.eq_ignore_ascii_case(end.as_bytes()));
            let length = found.unwrap_or(content.len());
            out.push_str(&rest[at..at + length]);
            at += length;
        }
        at
    }
}

/// An attribute's name, where its value is, and its length.
fn attribute(text: &str) -> (&str, Option<std::ops::Range<usize>>, usize) {
    let stop = |c: char| c.is_ascii_whitespace() || matches!(c, '=' | '>' | '/');
    // A stray `=` begins a name.
    let name = text.char_indices().skip(1).find(|(_, c)| stop(*c)).map_or(text.len(), |(at, _)| at);
    let blank = |at: usize| at + text[at..].len() - text[at..].trim_ascii_start().len();
    let at = blank(name);
    if !text[at..].starts_with('=') {
        return (&text[..name], None, name);
    }
    let start = blank(at + 1);
    match text[start..].chars().next() {
        Some(quote @ ('"' | '\'')) => {
            let end = text[start + 1..].find(quote).map_or(text.len(), |end| start + 1 + end);
            (&text[..name], Some(start + 1..end), (end + 1).min(text.len()))
        }
        _ => {
            let plain = |c: char| c.is_ascii_whitespace() || c == '>';
            let end = text[start..].find(plain).map_or(text.len(), |end| start + end);
            (&text[..name], Some(start..end), end)
        }
    }
}

fn unpack(bytes: &[u8], encoding: &str) -> io::Result<String> {
    let mut text = String::new();
    let limit = MAX_PAGE_BYTES as u64;
    match encoding {
        "gzip" => flate2::read::GzDecoder::new(bytes).take(limit).read_to_string(&mut text)?,
        "deflate" => flate2::read::DeflateDecoder::new(bytes).take(limit).read_to_string(&mut text)?,
        _ => bytes.take(limit).read_to_string(&mut text)?,
    };
    Ok(text)
}

fn pack(text: String, encoding: &str) -> io::Result<Vec<u8>> {
    match encoding {
        "gzip" => {
            let mut packer = flate2::write::GzEncoder::new(Vec::new(), Compression::default());
            packer.write_all(text.as_bytes())?;
            packer.finish()
        }
        "deflate" => {
            let mut packer = flate2::write::DeflateEncoder::new(Vec::new(), Compression::best());
            packer.write_all(text.as_bytes())?;
            packer.finish()
        }
        _ => Ok(text.into_bytes()),
    }
}

fn unreadable(why: &dyn std::fmt::Display) -> Status {
    Status::internal(format!("cannot rewrite the links of a page: {why}"))
}

fn text<'a>(response: &'a Response<Body>, name: &HeaderName) -> &'a str {
    response.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// A body as a whole.
async fn collect(mut body: Body) -> Result<Vec<u8>, Status> {
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        let data = frame.map_err(|why| unreadable(&why))?.into_data().unwrap_or_default();
        bytes.extend_from_slice(&data);
        if bytes.len() > MAX_PAGE_BYTES {
            return Err(unreadable(&format_args!("it is longer than {MAX_PAGE_BYTES} bytes")));
        }
    }
    Ok(bytes)
}

/// The backend's answer with its links rewritten, and without its word on who may use it from other origins.
///
/// # Errors
/// A page that is too long or cannot be read.
pub(super) async fn rewritten(mut response: Response<Body>, links: &Links) -> Result<Response<Body>, Status> {
    for name in ["credentials", "headers", "methods", "origin"] {
        response.headers_mut().remove(format!("access-control-allow-{name}"));
    }
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return Ok(response);
    }
    if let Some(location) = Some(text(&response, &LOCATION)).filter(|l| !l.is_empty()) {
        if let Ok(location) = HeaderValue::from_str(&links.rewrite(location)) {
            response.headers_mut().insert(LOCATION, location);
        }
        return Ok(response);
    }
    let encoding = text(&response, &CONTENT_ENCODING).to_owned();
    let is_page = text(&response, &CONTENT_TYPE).split(';').next().unwrap_or_default().trim() == "text/html";
    if !is_page || !matches!(encoding.as_str(), "" | "gzip" | "deflate") {
        return Ok(response);
    }
    let (mut parts, body) = response.into_parts();
    let bytes = collect(body).await?;
    let page = unpack(&bytes, &encoding).map_err(|e| e.kind());
    let page = match page {
        Ok(page) => pack(links.page(&page), &encoding).map_err(|e| unreadable(&e))?,
        // Not of the characters or form that it claims: as it came.
        Err(_) => bytes,
    };
    parts.headers.remove(CONTENT_LENGTH);
    Ok(Response::from_parts(parts, full(page)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn links() -> Links {
        Links {
            prefix: "/api/v1/namespaces/n/pods/p/proxy".into(),
            backend: "10.0.0.1:80".into(),
            asked: "k:6443".into(),
        }
    }

    #[test]
    fn single_links() {
        let prefix = links().prefix;
        for (link, expected) in [
            ("/a", format!("{prefix}/a")),
            ("/", format!("{prefix}/")),
            ("/a//../b/?q=/x#/y", format!("{prefix}/b/?q=/x#/y")),
            ("http://10.0.0.1:80/a", format!("{prefix}/a")),
            ("https://k:6443/a", format!("https://k:6443{prefix}/a")),
            ("//10.0.0.1:80/a/", format!("{prefix}/a/")),
            ("http://elsewhere/a", "http://elsewhere/a".into()),
            ("a/b", "a/b".into()),
            ("mailto:x@y", "mailto:x@y".into()),
            ("#top", "#top".into()),
            (&format!("{prefix}/a"), format!("{prefix}/a")),
        ] {
            assert_eq!(links().rewrite(link), expected, "{link}");
        }
    }

    #[test]
    fn pages() {
        let prefix = links().prefix;
        for (page, expected) in [
            ("<a href=\"/x\">t</a>", format!("<a href=\"{prefix}/x\">t</a>")),
            ("<IMG alt='/n' SRC = '/x'/>", format!("<IMG alt='/n' SRC = '{prefix}/x'/>")),
            ("<a href=/x>", format!("<a href={prefix}/x>")),
            ("<p title=\"/x\">1 < 2 & <b>", "<p title=\"/x\">1 < 2 & <b>".into()),
            ("<!-- <a href=\"/x\"> --><br>", "<!-- <a href=\"/x\"> --><br>".into()),
            (
                "<script src='/s'>'<a href=\"/x\">'</script>",
                format!("<script src='{prefix}/s'>'<a href=\"/x\">'</script>"),
            ),
            ("<a href=\"/x", format!("<a href=\"{prefix}/x")),
            ("<a =x é='/x' href>", "<a =x é='/x' href>".into()),
            ("<", "<".into()),
            ("<a", "<a".into()),
        ] {
            assert_eq!(links().page(page), expected, "{page}");
        }
    }

    #[tokio::test]
    async fn answers() {
        let answer = |name, value: &str, body: Vec<u8>| {
            let response = Response::builder().header(name, value).header("access-control-allow-origin", "*");
            response.body(full(body)).unwrap()
        };
        let location = rewritten(answer("location", "/x", Vec::new()), &links()).await.unwrap();
        assert!(location.headers()["location"].to_str().unwrap().ends_with("/proxy/x"));
        assert!(!location.headers().contains_key("access-control-allow-origin"));
        let read =
            |response: Response<Body>| async { response.into_body().collect().await.unwrap().to_bytes().to_vec() };
        let html = "text/html; charset=utf-8";
        let page = rewritten(answer("content-type", html, b"<a href='/x'>".to_vec()), &links()).await.unwrap();
        assert!(String::from_utf8(read(page).await).unwrap().contains("proxy/x"));
        let plain = rewritten(answer("content-type", "text/plain", b"<a href='/x'>".to_vec()), &links()).await.unwrap();
        assert_eq!(read(plain).await, b"<a href='/x'>");
        for encoding in ["gzip", "deflate"] {
            let mut packed = answer("content-type", html, pack("<a href='/x'>".into(), encoding).unwrap());
            packed.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static(encoding));
            let page = read(rewritten(packed, &links()).await.unwrap()).await;
            assert!(unpack(&page, encoding).unwrap().contains("proxy/x"));
        }
    }
}
