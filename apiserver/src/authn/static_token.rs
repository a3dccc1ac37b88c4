//! The static token file: `token,user,uid[,"group1,group2"]` a line, read again when the file changes.

use std::path::Path;

use component_base::reload::Reloading;
use futures::future::BoxFuture;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::{ConfigError, Identity, Refused, TokenAuthenticator};
use crate::http::request::UserInfo;

/// Tokens as digests, so that comparing tells nothing of their length or content.
type Known = Vec<([u8; 32], UserInfo)>;

/// The file's tokens.
pub struct StaticTokens(Reloading<Known>);

impl StaticTokens {
    /// Reads the file.
    ///
    /// # Errors
    /// It cannot be read, or a line has too few columns or an empty token or user.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let file = path.to_owned();
        Reloading::new("--token-auth-file", vec![path.to_owned()], move || read(&file)).map(Self)
    }
}

fn read(path: &Path) -> Result<Known, ConfigError> {
    let fail = |line: String, why: String| ConfigError::Tokens { path: path.display().to_string(), line, why };
    let text = std::fs::read_to_string(path).map_err(|e| fail(String::new(), format!("cannot read: {e}")))?;
    let mut tokens = Vec::new();
    for (index, line) in text.lines().enumerate() {
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        let columns = columns(line);
        let [token, user, uid, rest @ ..] = columns.as_slice() else {
            return Err(fail(format!(":{}", index + 1), "needs token,user,uid".to_owned()));
        };
        if token.is_empty() || user.is_empty() {
            return Err(fail(format!(":{}", index + 1), "token or user is empty".to_owned()));
        }
        let groups = rest.first().map_or_else(Vec::new, |list| {
            list.split(',').map(str::trim).filter(|g| !g.is_empty()).map(str::to_owned).collect()
        });
        let info = UserInfo { name: user.clone(), uid: uid.clone(), groups, ..UserInfo::default() };
        tokens.push((Sha256::digest(token).into(), info));
    }
    Ok(tokens)
}

/// One line of CSV, with `"` quoting.
fn columns(line: &str) -> Vec<String> {
    let mut columns = vec![String::new()];
    let mut quoted = false;
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                push(&mut columns, '"');
            }
            '"' => quoted = !quoted,
            ',' if !quoted => columns.push(String::new()),
            ' ' if !quoted && columns.last().is_some_and(String::is_empty) => {}
            other => push(&mut columns, other),
        }
    }
    columns
}

fn push(columns: &mut [String], c: char) {
    if let Some(last) = columns.last_mut() {
        last.push(c);
    }
}

impl TokenAuthenticator for StaticTokens {
    fn authenticate_token<'a>(
        &'a self,
        token: &'a str,
        _: &'a [String],
    ) -> BoxFuture<'a, Result<Option<Identity>, Refused>> {
        let digest: [u8; 32] = Sha256::digest(token).into();
        let mut found = None;
        for (known, user) in self.0.get().iter() {
            if bool::from(known.ct_eq(&digest)) {
                found = Some(Identity { user: user.clone(), audiences: Vec::new() });
            }
        }
        Box::pin(std::future::ready(Ok(found)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokens.csv");
        std::fs::write(&path, "t1,alice,u1,\"devs,ops\"\n\nt2,bob,u2\n").unwrap();
        let tokens = StaticTokens::load(&path).unwrap();
        let alice = tokens.authenticate_token("t1", &[]).await.unwrap().unwrap().user;
        assert_eq!((alice.name.as_str(), alice.groups.join("+")), ("alice", "devs+ops".to_owned()));
        assert!(tokens.authenticate_token("t2", &[]).await.unwrap().unwrap().user.groups.is_empty());
        assert!(tokens.authenticate_token("t", &[]).await.unwrap().is_none());
        std::fs::write(&path, "t3,carol,u3\n").unwrap();
        assert!(tokens.0.reload_if_changed());
        assert!(tokens.authenticate_token("t1", &[]).await.unwrap().is_none());
        assert_eq!(tokens.authenticate_token("t3", &[]).await.unwrap().unwrap().user.name, "carol");
        std::fs::write(&path, "t1,alice\n").unwrap();
        assert!(StaticTokens::load(&path).is_err_and(|e| e.to_string().contains(":1")));
    }
}
