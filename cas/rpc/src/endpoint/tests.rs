use super::*;

fn refusal(endpoint: &str) -> String {
    Target::parse(endpoint).unwrap_err().to_string()
}

#[test]
fn parses_endpoints() {
    let tcp = |uri: &str| Target::Tcp(uri.parse().unwrap());
    assert_eq!(
        Target::parse("grpc://build.example:8980").unwrap(),
        tcp("http://build.example:8980")
    );
    assert_eq!(
        Target::parse("grpcs://build.example:8980").unwrap(),
        Target::Tls("https://build.example:8980".parse().unwrap())
    );
    assert_eq!(Target::parse("http://[::1]:80").unwrap(), tcp("http://[::1]:80"));
    assert_eq!(
        Target::parse("unix:/run/bitzel.sock").unwrap(),
        Target::Unix("/run/bitzel.sock".into())
    );
    assert_eq!(
        Target::parse("unix:///run/x").unwrap(),
        Target::Unix("/run/x".into())
    );
}

#[test]
fn refuses_other_endpoints_with_a_correct_example() {
    assert!(refusal("build.example:8980").contains("has no scheme; write grpc://host:port"));
    assert!(refusal("ftp://x").contains("unknown scheme"));
    assert!(refusal("unix:").contains("names no socket"));
    assert!(refusal("grpc://").contains("is not an address"));
    assert!(refusal("grpc://a b").contains("is not an address"));
}

#[test]
fn f15_refuses_credentials_in_an_endpoint_and_hides_them() {
    for endpoint in [
        "grpc://me:secret@host:80",
        "grpcs://secret@host",
        "me:secret@host",
    ] {
        let message = refusal(endpoint);
        assert!(!message.contains("secret"), "{message}");
    }
    assert!(refusal("grpc://me:secret@host:80").contains("contains credentials"));
}

#[test]
fn secrets_leave_the_machine_only_with_tls() {
    let secret = ClientCredentials {
        token_file: Some("/token".into()),
        ..ClientCredentials::default()
    };
    let certificates = ClientCredentials {
        ca: Some("/ca.pem".into()),
        ..ClientCredentials::default()
    };
    let check = |endpoint: &str, credentials: &ClientCredentials| {
        let checked = Target::parse(endpoint).unwrap().check(endpoint, credentials);
        checked.map_err(|error| error.to_string())
    };
    for endpoint in [
        "grpcs://build.example",
        "unix:/s",
        "grpc://127.0.0.1:1",
        "grpc://[::1]:1",
    ] {
        assert_eq!(check(endpoint, &secret), Ok(()), "{endpoint}");
    }
    assert!(
        check("grpc://build.example", &secret)
            .unwrap_err()
            .contains("without TLS")
    );
    assert!(
        check("grpc://127.0.0.1:1", &certificates)
            .unwrap_err()
            .contains("write grpcs://")
    );
}

#[tokio::test]
async fn names_an_unreachable_server() {
    // A port of a listener that is gone.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("grpc://{}", listener.local_addr().unwrap());
    drop(listener);
    let error = connect(&endpoint).await.unwrap_err();
    assert_eq!(error.to_string(), format!("cannot connect to {endpoint}"));
}
