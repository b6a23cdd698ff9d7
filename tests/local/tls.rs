//! Connections to databases over TLS: who is let in and who is not, and that every way to a database takes it.

use halfmq_client::sql::{Dialect, LogChecker, TransactionLog};
use halfmq_client::{Client, Message, TransactionOptions, TransactionProducer};
use halfmq_proto::v1::TransactionState;
use halfmq_tests::{CHECKS_SOON, Coordinator};
use serde_json::json;
use sqlx::pool::PoolOptions;
use sqlx::{MySql, Pool, Postgres};

use crate::server;

/// A server that takes nothing but TLS, as its clients see it.
struct Secured {
    /// User, host, port and database.
    address: String,
    /// Signed the server's certificate, which names 127.0.0.1 and nothing else.
    ca: String,
    /// Signed nothing.
    other_ca: String,
}

impl Secured {
    async fn start(kind: &'static str) -> Option<Self> {
        let url = server::url(kind).await?;
        let (address, parameters) = url.split_once('?').expect("its URL says how to connect");
        let (_, ca) = parameters.rsplit_once('=').expect("its URL names the CA");
        let other_ca = ca.replace("/ca.pem", "/other-ca.pem");
        assert_ne!(other_ca, ca);
        Some(Self { address: address.to_owned(), ca: ca.to_owned(), other_ca })
    }

    /// The URL with these parameters, in which CAs go by their names.
    fn url(&self, host: &str, parameters: &str) -> String {
        let parameters = parameters.replace("<ca>", &self.ca).replace("<other>", &self.other_ca);
        format!("{}?{parameters}", self.address.replace("127.0.0.1", host))
    }
}

/// The cipher of a new connection; why there is none.
async fn cipher<DB: Dialect>(url: &str, question: &str) -> Result<String, String> {
    let options = PoolOptions::<DB>::new().max_connections(1);
    let pool = options.connect(url).await.map_err(|error| error.to_string())?;
    let mut connection = pool.acquire().await.expect("it is connected");
    let rows = DB::fetch(&mut connection, question, Vec::new()).await.expect("an answer");
    Ok(DB::text(rows.first().expect("one row"), 1).expect("a text"))
}

/// Host, parameters, and a word of the error; none: it connects, encrypted.
type Case = (&'static str, &'static str, Option<&'static str>);

async fn each_case<DB: Dialect>(server: &Secured, question: &str, cases: &[Case]) {
    for (host, parameters, refusal) in cases {
        let outcome = cipher::<DB>(&server.url(host, parameters), question).await;
        match (&outcome, refusal) {
            (Ok(cipher), None) => assert!(cipher.contains("AES") || cipher.contains("CHACHA"), "{cipher:?}"),
            (Err(error), Some(word)) => assert!(error.contains(word), "{host} {parameters}: {error}"),
            (Ok(_), Some(_)) | (Err(_), None) => panic!("{host} {parameters}: {outcome:?}"),
        }
    }
}

#[tokio::test]
async fn postgres_is_believed_only_with_the_right_certificate() {
    let Some(server) = Secured::start("postgres-tls").await else { return };
    let question = "SELECT 'cipher', COALESCE(cipher, '') FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    let cases = [
        ("127.0.0.1", "sslmode=verify-full&sslrootcert=<ca>", None),
        ("127.0.0.1", "sslmode=verify-full&sslrootcert=<other>", Some("certificate")),
        // Nobody whom the world trusts has signed it.
        ("127.0.0.1", "sslmode=verify-full", Some("certificate")),
        ("localhost", "sslmode=verify-full&sslrootcert=<ca>", Some("certificate")),
        ("127.0.0.1", "sslmode=verify-ca&sslrootcert=<other>", Some("certificate")),
        ("127.0.0.1", "sslmode=require", None),
        ("127.0.0.1", "", None),
        ("127.0.0.1", "sslmode=disable", Some("no encryption")),
    ];
    each_case::<Postgres>(&server, question, &cases).await;
    every_way_takes_it::<Postgres>(&server, "sslmode=verify-full&sslrootcert=").await;
}

#[tokio::test]
async fn mariadb_is_believed_only_with_the_right_certificate() {
    let Some(server) = Secured::start("mariadb-tls").await else { return };
    let cases = [
        ("127.0.0.1", "ssl-mode=VERIFY_IDENTITY&ssl-ca=<ca>", None),
        ("127.0.0.1", "ssl-mode=VERIFY_IDENTITY&ssl-ca=<other>", Some("certificate")),
        ("127.0.0.1", "ssl-mode=VERIFY_IDENTITY", Some("certificate")),
        ("localhost", "ssl-mode=VERIFY_IDENTITY&ssl-ca=<ca>", Some("certificate")),
        ("127.0.0.1", "ssl-mode=VERIFY_CA&ssl-ca=<other>", Some("certificate")),
        ("127.0.0.1", "ssl-mode=REQUIRED", None),
        ("127.0.0.1", "", None),
        ("127.0.0.1", "ssl-mode=DISABLED", Some("denied")),
    ];
    each_case::<MySql>(&server, "SHOW STATUS LIKE 'Ssl_cipher'", &cases).await;
    every_way_takes_it::<MySql>(&server, "ssl-mode=VERIFY_IDENTITY&ssl-ca=").await;
}

/// The service itself, the SDK's own connections, the coordinator's resolver, and the audit.
async fn every_way_takes_it<DB: Dialect>(server: &Secured, verified: &str) {
    let url = server.url("127.0.0.1", &format!("{verified}<ca>"));
    let stranger = server.url("127.0.0.1", &format!("{verified}<other>"));
    let pool: Pool<DB> = PoolOptions::new().connect(&url).await.expect("it connects");
    let log = TransactionLog::<DB>::default();
    log.migrate(&pool).await.expect("it migrates");
    let databases = json!([{ "url": url, "producer_groups": ["shop"] }]).to_string();
    let mut environment = CHECKS_SOON.to_vec();
    environment.push(("HALFMQ_RESOLVER__DATABASES", &databases));
    let coordinator = Coordinator::start_with(&environment).await;
    let client = Client::connect(coordinator.endpoint()).expect("an endpoint");
    let producer = TransactionProducer::without_checker(&client, "shop", TransactionOptions::default());
    let transaction = producer.begin([Message::new("orders", "42")]).await.expect("prepared");
    let mut sql = pool.begin().await.expect("it begins");
    log.record(&mut sql, transaction.id()).await.expect("recorded");
    sql.commit().await.expect("committed");
    // Nobody else can say so.
    coordinator.driver().becomes(transaction.id().as_str(), TransactionState::Committed).await;

    let own: LogChecker<DB> = log.checker(&pool);
    assert_eq!(own.rows_after(None, 10).await.expect("its own connections").len(), 1);

    let audit = async |url: &str| coordinator.cli(&["audit", "--group", "shop", "--database", url]).await;
    let (code, told, complaint) = audit(&url).await;
    assert_eq!(code, 0, "{told}{complaint}");
    assert!(told.contains("Compared 1 rows"), "{told}");
    let (code, told, complaint) = audit(&stranger).await;
    assert_eq!(code, 1, "{told}{complaint}");
    assert!(complaint.contains("certificate"), "{complaint}");
}
