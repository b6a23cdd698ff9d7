//! `halfmq send`: one message without a transaction.

use super::{endpoint::Endpoint, failure::Failure, json, output::Output, text};
use halfmq_proto::v1::{Message, SendRequest, message::Visibility};
use std::{
    io::{self, IsTerminal, Read},
    time::Duration,
};

/// The largest body of a message; the server refuses more.
const BODY_BYTES_MAX: u64 = 4 * 1024 * 1024;

#[derive(Debug, clap::Args)]
pub(super) struct Send {
    topic: String,
    /// The body; read from stdin if it is left out
    body: Option<String>,
    /// Business key, for people who look for it; may be repeated
    #[arg(long = "key", value_name = "K")]
    keys: Vec<String>,
    /// One word that receivers can filter on
    #[arg(long, value_name = "T")]
    tag: Option<String>,
    /// Show it to receivers only after this time, such as 30s
    #[arg(long, value_name = "D", value_parser = text::parse_duration)]
    delay: Option<Duration>,
    /// Header; may be repeated
    #[arg(long = "header", value_name = "NAME=VALUE", value_parser = header)]
    headers: Vec<(String, String)>,
    /// Messages of one message group are delivered in order
    #[arg(long, value_name = "G")]
    message_group: Option<String>,
    /// Your own key for this request: the same again sends nothing new
    #[arg(long, value_name = "ID")]
    request_id: Option<String>,
    #[command(flatten)]
    endpoint: Endpoint,
}

fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

impl Send {
    pub(super) async fn run(self, output: Output) -> Result<(), Failure> {
        let body = match self.body {
            Some(text) => text.into_bytes(),
            None => from_stdin(output)?,
        };
        let visibility = self.delay.map(text::to_wire).transpose()?.map(Visibility::Delay);
        let message = Message {
            topic: self.topic,
            body: body.into(),
            tag: self.tag.unwrap_or_default(),
            keys: self.keys,
            headers: self.headers.into_iter().collect(),
            message_group: self.message_group.unwrap_or_default(),
            visibility,
        };
        let request = SendRequest {
            producer_group: String::new(),
            request_id: self.request_id.unwrap_or_default(),
            messages: vec![message],
        };
        let receipts = self.endpoint.queues().await?.send(request).await?.into_inner().messages;
        for receipt in &receipts {
            output.answer(
                || format!("Sent {} to {}.", receipt.message_id, text::receipt(receipt)),
                || json::message_receipt(receipt),
            )?;
        }
        Ok(())
    }
}

fn from_stdin(output: Output) -> Result<Vec<u8>, Failure> {
    if io::stdin().is_terminal() {
        output.note("The body comes from the terminal; end it with Ctrl-D on a line of its own.")?;
    }
    let mut body = Vec::new();
    io::stdin().lock().take(BODY_BYTES_MAX + 1).read_to_end(&mut body).map_err(Failure::Input)?;
    if body.len() as u64 > BODY_BYTES_MAX {
        return Err(Failure::Usage(format!(
            "the body has more than {BODY_BYTES_MAX} bytes (4 MiB); nothing was sent"
        )));
    }
    Ok(body)
}
