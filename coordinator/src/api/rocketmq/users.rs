//! Who may come in: `MQv2-HMAC-SHA1`, the signature that RocketMQ 5 clients put into `authorization`.
//!
//! `MQv2-HMAC-SHA1 Credential=<access key>, SignedHeaders=x-mq-date-time, Signature=<hex>`, where the signature
//! is the HMAC of the bytes of the header `x-mq-date-time` under the secret key. The date is not compared with
//! the clock: some clients send local time and call it UTC.

use std::collections::HashMap;

use hmac::{Hmac, Mac};
use sha1::Sha1;

const ALGORITHM: &str = "MQv2-HMAC-SHA1";

/// Access keys with their secrets; none: everybody may come in.
#[derive(Clone, Default)]
pub struct Users(HashMap<String, Vec<u8>>);

/// A user that is not `<access key>:<secret key>`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a user is <access key>:<secret key>; the access key holds no ':', '/', ',' or space")]
pub struct BadUser;

/// Why a caller is not let in.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum NotLetIn {
    #[error("the authorization header is malformed; expected {ALGORITHM} with Credential and Signature")]
    Malformed,
    #[error("this server wants credentials, and the call carries none")]
    Missing,
    #[error("access key or signature are wrong")]
    Wrong,
}

impl Users {
    /// From `<access key>:<secret key>`, each.
    ///
    /// # Errors
    /// [`BadUser`].
    pub fn parse<'a>(users: impl IntoIterator<Item = &'a str>) -> Result<Self, BadUser> {
        let user = |text: &str| {
            let (access, secret) = text.split_once(':').ok_or(BadUser)?;
            let legal = |text: &str| !text.is_empty() && !text.contains(['/', ',', ' ']);
            let good = legal(access) && !secret.is_empty();
            if good { Ok((access.to_owned(), secret.as_bytes().to_vec())) } else { Err(BadUser) }
        };
        Ok(Self(users.into_iter().map(user).collect::<Result<_, _>>()?))
    }

    /// Checks the headers of one call.
    pub(super) fn admit(&self, authorization: Option<&[u8]>, date: Option<&[u8]>) -> Result<(), NotLetIn> {
        let given = authorization.map(Credentials::parse).transpose()?;
        if self.0.is_empty() {
            return Ok(());
        }
        // One library always sends the header, with an empty access key when it has none.
        let given = given.filter(|given| !given.access.is_empty()).ok_or(NotLetIn::Missing)?;
        let signature = given.signature.ok_or(NotLetIn::Malformed)?;
        // An unknown user costs as much time as a known one.
        let secret = self.0.get(given.access);
        let mut mac = Hmac::<Sha1>::new_from_slice(secret.map_or(&[][..], Vec::as_slice))
            .map_err(|_| NotLetIn::Wrong)?;
        mac.update(date.unwrap_or_default());
        let right = mac.verify_slice(&signature).is_ok();
        if right && secret.is_some() { Ok(()) } else { Err(NotLetIn::Wrong) }
    }
}

impl std::fmt::Debug for Users {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Users({})", self.0.len())
    }
}

struct Credentials<'a> {
    access: &'a str,
    signature: Option<Vec<u8>>,
}

impl<'a> Credentials<'a> {
    fn parse(header: &'a [u8]) -> Result<Self, NotLetIn> {
        let text = std::str::from_utf8(header).map_err(|_| NotLetIn::Malformed)?.trim();
        let (algorithm, fields) = text.split_once(' ').ok_or(NotLetIn::Malformed)?;
        if algorithm != ALGORITHM {
            return Err(NotLetIn::Malformed);
        }
        let (mut access, mut signature) = (None, None);
        for field in fields.split(',') {
            let (name, value) = field.trim().split_once('=').ok_or(NotLetIn::Malformed)?;
            match name {
                // One library adds region and product: `<access key>//Rocketmq`.
                "Credential" => access = value.split('/').next(),
                "Signature" => signature = Some(from_hex(value).ok_or(NotLetIn::Malformed)?),
                _ => {}
            }
        }
        Ok(Self { access: access.ok_or(NotLetIn::Malformed)?, signature })
    }
}

/// Some clients write capitals, some do not.
fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u32> = text.chars().map(|digit| digit.to_digit(16)).collect::<Option<_>>()?;
    let (pairs, rest) = digits.as_chunks::<2>();
    let byte = |[high, low]: &[u32; 2]| u8::try_from(high * 16 + low).ok();
    if rest.is_empty() { pairs.iter().map(byte).collect() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// HMAC-SHA1 of the date under `secret`, computed with another tool.
    const DATE: &[u8] = b"20261121T101112Z";

    fn signed(access: &str, secret: &str) -> String {
        let mut mac = Hmac::<Sha1>::new_from_slice(secret.as_bytes()).expect("any length is legal");
        mac.update(DATE);
        let hex: String = mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02X}")).collect();
        format!("{ALGORITHM} Credential={access}, SignedHeaders=x-mq-date-time, Signature={hex}")
    }

    #[test]
    fn callers_are_let_in_by_their_signature() {
        let users = Users::parse(["ann:se:cret", "bob:other"]).expect("legal users");
        let nobody = "MQv2-HMAC-SHA1 Credential=, SignedHeaders=x-mq-date-time, Signature=00";
        for (header, let_in) in [
            (Some(signed("ann", "se:cret")), Ok(())),
            (
                Some(
                    signed("ann", "se:cret")
                        .to_lowercase()
                        .replace("mqv2-hmac-sha1 c", "MQv2-HMAC-SHA1 C")
                        .replace("signature", "Signature"),
                ),
                Ok(()),
            ),
            (Some(signed("bob//Rocketmq", "other")), Ok(())),
            (Some(signed("bob", "se:cret")), Err(NotLetIn::Wrong)),
            (Some(signed("eve", "")), Err(NotLetIn::Wrong)),
            (Some(nobody.to_owned()), Err(NotLetIn::Missing)),
            (None, Err(NotLetIn::Missing)),
            (Some("Basic YTpi".to_owned()), Err(NotLetIn::Malformed)),
            (Some(ALGORITHM.to_owned()), Err(NotLetIn::Malformed)),
            (Some(format!("{ALGORITHM} Credential=ann, Signature=xyz")), Err(NotLetIn::Malformed)),
            (Some(format!("{ALGORITHM} Credential=ann")), Err(NotLetIn::Malformed)),
        ] {
            let admitted = users.admit(header.as_ref().map(String::as_bytes), Some(DATE));
            assert_eq!(admitted, let_in, "{header:?}");
        }
        let open = Users::default();
        assert_eq!(open.admit(None, None), Ok(()));
        assert_eq!(open.admit(Some(nobody.as_bytes()), None), Ok(()));
        assert_eq!(open.admit(Some(b"Basic YTpi"), None), Err(NotLetIn::Malformed));
        assert_eq!(Users::parse(["nocolon"]).err(), Some(BadUser));
    }
}
