//! Producers that are asked over HTTP.

use halfmq_proto::v1::{CheckSettings, DecidedBy, Message, PrepareRequest, TransactionState};
use halfmq_tests::{CHECKS_SOON, Callback, Coordinator, Driver, Reply, bodies, half, message};
use serde_json::{Value, json};
use tonic::Code;

const SECRET: &str = "a secret of both sides";

/// A coordinator that may call `allow` and nothing else.
async fn start(allow: &str) -> (Coordinator, Driver) {
    let mut environment = CHECKS_SOON.to_vec();
    environment.extend([("HALFMQ_CALLBACKS__ALLOW", allow), ("HALFMQ_CALLBACKS__SECRET", SECRET)]);
    let coordinator = Coordinator::start_with(&environment).await;
    let driver = coordinator.driver();
    driver.create_topic("orders", 1).await;
    (coordinator, driver)
}

fn answered_at(url: &str, message: Message) -> PrepareRequest {
    let check = CheckSettings { callback_url: url.into(), ..CheckSettings::default() };
    PrepareRequest { check: Some(check), ..half("shop", [message]) }
}

/// Whether `json` says all that `expected` says; whoever reads it has to put up with more.
fn includes(json: &Value, expected: &Value) -> bool {
    match (json, expected) {
        (Value::Object(json), Value::Object(expected)) => {
            expected.iter().all(|(name, value)| json.get(name).is_some_and(|json| includes(json, value)))
        }
        (Value::Array(json), Value::Array(expected)) => {
            json.len() == expected.len()
                && json.iter().zip(expected).all(|(json, value)| includes(json, value))
        }
        _ => json == expected,
    }
}

#[tokio::test]
async fn dead_producer_is_asked_at_its_url() {
    let callback = Callback::start(|asked| asked.answer_all("COMMIT")).await;
    let (_coordinator, driver) = start(&callback.url("/")).await;
    let sent = Message {
        tag: "paid".into(),
        keys: vec!["k-1".into()],
        headers: [("tenant".to_owned(), "blue".to_owned())].into(),
        ..message("orders", "cart-7")
    };
    let prepared = driver.prepare(answered_at(&callback.url("/checks?shop=1"), sent)).await;
    assert_eq!(prepared.warnings, Vec::<i32>::new(), "a URL is somebody to ask");

    let asked = callback.asked().await;
    assert_eq!(asked.path, "/checks");
    assert!(asked.is_signed_with(SECRET), "the receiver can tell who asks");
    assert!(!asked.is_signed_with("another secret"), "and the signature depends on the secret");
    let question = &asked.json["questions"][0];
    assert!(question["prepared_at"].is_string(), "{question}");
    let expected = json!({
        "transaction_id": prepared.transaction_id,
        "producer_group": "shop",
        "producer_instance": "p1",
        "checks_answered": 0,
        "messages": [{
            "topic": "orders", "tag": "paid", "keys": ["k-1"], "headers": { "tenant": "blue" },
            "body_base64": "Y2FydC03",
        }],
    });
    assert!(includes(question, &expected), "{question:#} lacks something of {expected:#}");

    assert_eq!(bodies(&driver.receive("orders", "billing", 1).await), ["cart-7"]);
    let transaction = driver.describe(&prepared.transaction_id).await;
    assert_eq!(transaction.decided_by(), DecidedBy::Check);
}

#[tokio::test]
async fn unknown_over_http_is_counted() {
    let callback = Callback::start(|asked| match asked.json["questions"][0]["checks_answered"].as_u64() {
        Some(0 | 1) => asked.answer_all("UNKNOWN"),
        _ => asked.answer_all("ROLLBACK"),
    })
    .await;
    let (_coordinator, driver) = start(&callback.url("/")).await;
    let id = driver.prepare(answered_at(&callback.url("/"), message("orders", "o"))).await.transaction_id;
    let transaction = driver.becomes(&id, TransactionState::RolledBack).await;
    assert_eq!((transaction.checks_answered, transaction.decided_by()), (2, DecidedBy::Check));
}

/// P6: whatever is not an answer is no answer, neither UNKNOWN nor ROLLBACK.
#[tokio::test]
async fn broken_answers_are_not_counted() {
    type Answer = fn() -> Reply;
    let replies: [(&str, Answer); 6] = [
        ("server error", || Reply::Status(500)),
        ("not found", || Reply::Status(404)),
        ("no JSON", || Reply::Text("COMMIT")),
        ("other JSON", || Reply::Json(json!({ "ok": true }))),
        ("unknown word", || {
            Reply::Json(json!({ "answers": [{ "transaction_id": "ID", "resolution": "YES" }] }))
        }),
        ("no answers", || Reply::Json(json!({ "answers": [] }))),
    ];
    for (name, reply) in replies {
        let callback = Callback::start(move |asked| match reply() {
            Reply::Json(json) => {
                let id = asked.transaction_ids().first().copied().unwrap_or_default();
                let json = json.to_string().replace("ID", id);
                Reply::Json(serde_json::from_str(&json).expect("an id needs no escaping"))
            }
            other @ (Reply::Text(_) | Reply::Status(_) | Reply::Redirect(_)) => other,
        })
        .await;
        let (_coordinator, driver) = start(&callback.url("/")).await;
        let id = driver.prepare(answered_at(&callback.url("/"), message("orders", "o"))).await.transaction_id;
        for _ in 0..2 {
            callback.asked().await;
        }
        let transaction = driver.describe(&id).await;
        assert_eq!(
            (transaction.state(), transaction.checks_answered),
            (TransactionState::Prepared, 0),
            "{name}"
        );
    }
}

#[tokio::test]
async fn redirect_is_not_followed() {
    let elsewhere = Callback::start(|asked| asked.answer_all("COMMIT")).await;
    let target = elsewhere.url("/stolen");
    let callback = Callback::start(move |_| Reply::Redirect(target.clone())).await;
    let (_coordinator, driver) = start(&format!("{},{}", callback.url("/"), elsewhere.url("/"))).await;
    let id = driver.prepare(answered_at(&callback.url("/"), message("orders", "o"))).await.transaction_id;
    for _ in 0..2 {
        callback.asked().await;
    }
    let transaction = driver.describe(&id).await;
    assert_eq!((transaction.state(), transaction.checks_answered), (TransactionState::Prepared, 0));

    // Were the redirect followed, the first request there would be the redirected one.
    let direct = answered_at(&elsewhere.url("/direct"), message("orders", "direct"));
    let direct = PrepareRequest { producer_group: "other".into(), ..direct };
    driver.prepare(direct).await;
    assert_eq!(elsewhere.asked().await.path, "/direct");
}

#[tokio::test]
async fn only_admitted_urls_are_called() {
    let callback = Callback::start(|asked| asked.answer_all("COMMIT")).await;
    let (_coordinator, driver) = start(&callback.url("/checks/")).await;
    let host = callback.url("");
    let port = host.rsplit(':').next().unwrap_or_default();
    for url in [
        callback.url("/"),
        callback.url("/other/checks/"),
        callback.url("/checks/../admin"),
        callback.url("/checks/%2e%2e/admin"),
        callback.url("/checks/..\\admin"),
        format!("{host}@evil.example/checks/"),
        format!("{host}.evil.example/checks/"),
        format!("http://127.0.0.1:1{port}/checks/"),
        format!("https://127.0.0.1:{port}/checks/"),
        "http://169.254.169.254/latest/meta-data".to_owned(),
        "file:///etc/passwd".to_owned(),
    ] {
        let refused = driver.refused_prepare(answered_at(&url, message("orders", "o"))).await;
        assert_eq!(refused.kind(), (Code::PermissionDenied, "REASON_CALLBACK_NOT_ALLOWED"), "{url}");
    }
    driver.prepare(answered_at(&callback.url("/checks/shop"), message("orders", "o"))).await;
    assert_eq!(callback.asked().await.path, "/checks/shop", "nothing else was called before");
}

#[tokio::test]
async fn without_an_allow_list_no_url_is_called() {
    let coordinator = Coordinator::start_with(&CHECKS_SOON).await;
    let driver = coordinator.driver();
    driver.create_topic("orders", 1).await;
    let refused = driver.refused_prepare(answered_at("http://127.0.0.1:9/", message("orders", "o"))).await;
    assert_eq!(refused.kind(), (Code::PermissionDenied, "REASON_CALLBACK_NOT_ALLOWED"));
}
