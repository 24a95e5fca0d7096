//! What an authoriser, or a file of the directory, says about a key: one document, as JSON or as TOML.
//!
//! Everything that is not understood is an error that names the field, what was found and what could stand there; an
//! answer is taken whole or not at all. No error shows a secret, nor a value that may be one in the wrong place.

use std::time::Duration;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use linegate_wire::time::Now;
use serde_json::{Map, Value};
use zeroize::{Zeroize, Zeroizing};

use crate::config::{SECONDS_MAX, prefix};
use crate::gateway::mirror::Prefix;
use crate::gateway::on_demand::{Expiry, Grant};
use crate::settings::Secret;

/// Prefixes of one peer at most.
pub const PREFIXES_MAX: usize = 256;
/// Characters of a name or a reason at most.
const TEXT_MAX: usize = 128;

/// The fields that are known.
const FIELDS: [&str; 10] = [
    "allow",
    "allowed_ips",
    "expires_unix_seconds",
    "group",
    "lifetime_seconds",
    "name",
    "persistent_keepalive",
    "preshared_key",
    "reason",
    "remember_seconds",
];

/// A document as it was read; its strings are wiped when it goes, since one of them may be a key.
#[derive(Debug, Default)]
pub struct Document(Value);

impl Drop for Document {
    fn drop(&mut self) {
        wipe(&mut self.0);
    }
}

fn wipe(value: &mut Value) {
    match value {
        Value::String(text) => text.zeroize(),
        Value::Array(items) => items.iter_mut().for_each(wipe),
        Value::Object(fields) => fields.values_mut().for_each(wipe),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// What was said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The key may be a peer.
    Allow {
        /// What it gets.
        grant: Grant,
        /// How long the answer holds for further initiations.
        remember: Option<Duration>,
    },
    /// It may not.
    Refuse {
        /// Why, for the log.
        reason: Option<String>,
        /// How long not to ask again.
        remember: Option<Duration>,
    },
}

/// What is wrong with a document.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    /// It is no JSON.
    #[error("the answer is not JSON ({0})")]
    Json(String),
    /// A field is wrong.
    #[error("{field}: found {found}, expected {expected}")]
    Field {
        /// Which.
        field: String,
        /// What stands there; what may be secret is described, not shown.
        found: String,
        /// What could stand there.
        expected: &'static str,
    },
}

impl Document {
    /// Reads JSON.
    ///
    /// # Errors
    /// [`AnswerError::Json`], with line and column.
    pub fn from_json(text: &[u8]) -> Result<Self, AnswerError> {
        serde_json::from_slice(text).map(Self).map_err(|error| AnswerError::Json(error.to_string()))
    }

    /// Reads TOML, where keys are on hand as JSON would have them.
    ///
    /// # Errors
    /// The line and what is wrong with it, without what stands there.
    pub fn from_toml(text: &str) -> Result<Self, (usize, String)> {
        toml::from_str(text).map(Self).map_err(|error| {
            let start = error.span().map_or(0, |span| span.start);
            let line = text.get(..start).map_or(1, |before| before.matches('\n').count() + 1);
            (line, error.message().to_owned())
        })
    }

    /// The document under a key of this one, if there is one.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<Self> {
        self.0.get(key).cloned().map(Self)
    }

    /// Understands what is said about a key. `allow` is what holds if the document does not say.
    ///
    /// # Errors
    /// [`AnswerError::Field`] of the first mistake.
    pub fn verdict(&self, allow: Option<bool>, now: Now) -> Result<Verdict, AnswerError> {
        let Value::Object(fields) = &self.0 else {
            return Err(wrong("the answer", kind(&self.0), "an object, e.g. {\"allow\": false}"));
        };
        if let Some(unknown) = fields.keys().find(|key| !FIELDS.contains(&key.as_str())) {
            const EXPECTED: &str = "allow, reason, name, allowed_ips, preshared_key, persistent_keepalive, group, \
                                    lifetime_seconds, expires_unix_seconds or remember_seconds";
            return Err(wrong("a field", shown(unknown), EXPECTED));
        }
        let remember = seconds(fields, "remember_seconds")?;
        let allow = match fields.get("allow") {
            Some(Value::Bool(allow)) => *allow,
            Some(other) => return Err(wrong("allow", kind(other), "true or false")),
            None => allow.ok_or_else(|| wrong("allow", "nothing", "true or false"))?,
        };
        let reason = text(fields, "reason")?;
        if !allow {
            return Ok(Verdict::Refuse { reason, remember });
        }
        let expiry = expiry(fields, now)?;
        if expiry.is_some_and(|expiry| expiry.at <= now.mono) {
            return Ok(Verdict::Refuse { reason: Some("its time is over".into()), remember });
        }
        let grant = Grant {
            name: text(fields, "name")?,
            preshared_key: preshared_key(fields)?,
            allowed_ips: allowed_ips(fields)?,
            persistent_keepalive: persistent_keepalive(fields)?,
            group: text(fields, "group")?,
            expiry,
        };
        Ok(Verdict::Allow { grant, remember })
    }
}

fn wrong(field: &str, found: impl Into<String>, expected: &'static str) -> AnswerError {
    AnswerError::Field { field: field.into(), found: found.into(), expected }
}

/// What a value is, without the value.
fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// A short word as it stands; a long one may be a key in the wrong place.
fn shown(word: &str) -> String {
    const SHOWN_MAX: usize = 43;
    if word.len() <= SHOWN_MAX { format!("{word:?}") } else { format!("{} characters", word.chars().count()) }
}

fn text(fields: &Map<String, Value>, field: &str) -> Result<Option<String>, AnswerError> {
    match fields.get(field) {
        None => Ok(None),
        Some(Value::String(text)) if text.chars().count() <= TEXT_MAX && !text.chars().any(char::is_control) => {
            Ok(Some(text.clone()))
        }
        Some(Value::String(_)) => {
            Err(wrong(field, "a string that is too long or has control characters", "at most 128 printable characters"))
        }
        Some(other) => Err(wrong(field, kind(other), "a string")),
    }
}

fn seconds(fields: &Map<String, Value>, field: &str) -> Result<Option<Duration>, AnswerError> {
    let Some(value) = fields.get(field) else { return Ok(None) };
    match value.as_u64() {
        Some(seconds) if seconds <= SECONDS_MAX => Ok(Some(Duration::from_secs(seconds))),
        _ => Err(wrong(field, number(value), "a whole number of seconds up to 604800, a week")),
    }
}

fn number(value: &Value) -> String {
    if value.is_number() { value.to_string() } else { kind(value).into() }
}

fn expiry(fields: &Map<String, Value>, now: Now) -> Result<Option<Expiry>, AnswerError> {
    let lifetime = seconds(fields, "lifetime_seconds")?;
    let Some(end) = fields.get("expires_unix_seconds") else {
        return Ok(lifetime.map(|lifetime| Expiry { at: now.mono + lifetime, unix: now.wall + lifetime }));
    };
    if lifetime.is_some() {
        return Err(wrong("expires_unix_seconds", "lifetime_seconds as well", "only one of both"));
    }
    // Ten thousand years: what is beyond is a number of milliseconds, and no moment may overflow.
    const UNIX_SECONDS_MAX: u64 = 10_000 * 366 * 24 * 3600;
    let unix = end.as_u64().filter(|seconds| *seconds <= UNIX_SECONDS_MAX).map(Duration::from_secs);
    let unix = unix.ok_or_else(|| wrong("expires_unix_seconds", number(end), "whole seconds since 1970"))?;
    // A moment further away than our clock counts is none.
    let left = unix.saturating_sub(now.wall).min(Duration::from_secs(100 * 366 * 24 * 3600));
    Ok(Some(Expiry { at: now.mono + left, unix }))
}

fn preshared_key(fields: &Map<String, Value>) -> Result<Option<Secret>, AnswerError> {
    const EXPECTED: &str = "32 bytes in base64 (44 characters), as wg genpsk prints them";
    match fields.get("preshared_key") {
        None => Ok(None),
        Some(Value::String(text)) => {
            let bytes = Zeroizing::new(BASE64_STANDARD.decode(text).unwrap_or_default());
            let bytes = bytes.as_slice().try_into().ok();
            bytes.map(Secret::unless_zero).ok_or_else(|| wrong("preshared_key", "something else", EXPECTED))
        }
        Some(other) => Err(wrong("preshared_key", kind(other), EXPECTED)),
    }
}

fn allowed_ips(fields: &Map<String, Value>) -> Result<Vec<Prefix>, AnswerError> {
    const EXPECTED: &str = "a list of prefixes, e.g. [\"10.60.1.0/24\", \"fd00:60:1::/64\"]";
    const FIELD: &str = "allowed_ips";
    let items = match fields.get(FIELD) {
        Some(Value::Array(items)) if items.len() <= PREFIXES_MAX => items,
        Some(Value::Array(items)) => {
            return Err(wrong(FIELD, format!("{} items", items.len()), "at most 256 prefixes"));
        }
        Some(other) => return Err(wrong(FIELD, kind(other), EXPECTED)),
        None => return Err(wrong(FIELD, "nothing", EXPECTED)),
    };
    let prefixes = items.iter().map(|item| {
        let text = item.as_str().ok_or_else(|| wrong(FIELD, kind(item), EXPECTED))?;
        let prefix = prefix(text).and_then(|(address, len)| Prefix::new(address, len));
        prefix.ok_or_else(|| wrong(FIELD, shown(text), EXPECTED))
    });
    prefixes.collect()
}

fn persistent_keepalive(fields: &Map<String, Value>) -> Result<u16, AnswerError> {
    let Some(value) = fields.get("persistent_keepalive") else { return Ok(0) };
    let seconds = value.as_u64().and_then(|seconds| u16::try_from(seconds).ok());
    seconds.ok_or_else(|| wrong("persistent_keepalive", number(value), "0 (off) to 65535 seconds"))
}

#[cfg(test)]
#[path = "answer_tests.rs"]
mod tests;
