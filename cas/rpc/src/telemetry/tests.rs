use std::convert::Infallible;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use metrics_exporter_prometheus::PrometheusBuilder;
use tower::{Layer as _, Service as _, ServiceExt as _, service_fn};

use super::ObservingLayer;

const GET: &str = "/build.bazel.remote.execution.v2.ActionCache/GetActionResult";

/// Response whose status comes after one message, or, with `None`, never.
fn answer(status: Option<&'static str>) -> Response<http_body_util::combinators::BoxBody<Bytes, Infallible>> {
    let mut frames = vec![Ok(Frame::data(Bytes::from_static(b"message")))];
    if let Some(status) = status {
        let trailers =
            HeaderMap::from_iter([("grpc-status".parse().unwrap(), HeaderValue::from_static(status))]);
        frames.push(Ok(Frame::trailers(trailers)));
    }
    Response::new(BodyExt::boxed(StreamBody::new(futures::stream::iter(frames))))
}

/// The metrics after one request for `path` that is answered with `status`. The client reads the answer to its end, or
/// drops it.
async fn metrics_after(path: &'static str, status: Option<&'static str>, reads_to_the_end: bool) -> String {
    let recorder = PrometheusBuilder::new().build_recorder();
    let handle = recorder.handle();
    let _installed = metrics::set_default_local_recorder(&recorder);
    let inner = service_fn(move |_: Request<()>| std::future::ready(Ok::<_, Infallible>(answer(status))));
    let mut service = ObservingLayer::Grpc.layer(inner);
    let request = Request::builder().uri(path).body(()).unwrap();
    let response = service.ready().await.unwrap().call(request).await.unwrap();
    assert!(
        handle.render().contains("bitzel_requests_in_flight 1"),
        "the request is under way until its body has ended"
    );
    if reads_to_the_end {
        response.into_body().collect().await.unwrap();
    } else {
        drop(response);
    }
    handle.render()
}

fn counted(service: &str, method: &str, code: &str) -> String {
    format!("bitzel_requests_total{{service=\"{service}\",method=\"{method}\",code=\"{code}\"}} 1")
}

#[tokio::test]
async fn counts_a_request_with_the_status_of_its_trailers() {
    for (status, code) in [("0", "OK"), ("5", "NOT_FOUND"), ("7", "PERMISSION_DENIED")] {
        let metrics = metrics_after(GET, Some(status), true).await;
        assert!(
            metrics.contains(&counted("ActionCache", "GetActionResult", code)),
            "{metrics}"
        );
        assert!(metrics.contains("bitzel_requests_in_flight 0"), "{metrics}");
        assert!(
            metrics.contains(
                "bitzel_request_duration_seconds_count{service=\"ActionCache\",method=\"GetActionResult\"} 1"
            ),
            "{metrics}"
        );
    }
}

#[tokio::test]
async fn counts_a_dropped_response_as_cancelled() {
    let metrics = metrics_after(GET, None, false).await;
    assert!(
        metrics.contains(&counted("ActionCache", "GetActionResult", "CANCELLED")),
        "{metrics}"
    );
    assert!(metrics.contains("bitzel_requests_in_flight 0"), "{metrics}");
}

#[tokio::test]
async fn unknown_paths_share_one_time_series() {
    let metrics = metrics_after("/made/up", Some("12"), true).await;
    assert!(
        metrics.contains(&counted("unknown", "unknown", "UNIMPLEMENTED")),
        "{metrics}"
    );
    assert!(!metrics.contains("made"), "{metrics}");
}

/// A call that is refused before a service sees it, or given up by its client, is not known to be unimplemented.
#[tokio::test]
async fn f21_invented_methods_share_one_time_series() {
    for (path, status, reads_to_the_end, code) in [
        ("/made.up.Service/Method", Some("16"), true, "UNAUTHENTICATED"),
        (
            "/build.bazel.remote.execution.v2.ActionCache/MadeUp",
            Some("7"),
            true,
            "PERMISSION_DENIED",
        ),
        (
            "//google.bytestream.ByteStream/Read",
            Some("16"),
            true,
            "UNAUTHENTICATED",
        ),
        ("/made.up.Service/Method", None, false, "CANCELLED"),
    ] {
        let metrics = metrics_after(path, status, reads_to_the_end).await;
        assert!(
            metrics.contains(&counted("unknown", "unknown", code)),
            "{metrics}"
        );
        assert!(
            metrics
                .contains("bitzel_request_duration_seconds_count{service=\"unknown\",method=\"unknown\"} 1"),
            "{metrics}"
        );
    }
    let metrics = metrics_after("/grpc.health.v1.Health/Check", Some("0"), true).await;
    assert!(metrics.contains(&counted("Health", "Check", "OK")), "{metrics}");
}

/// The metrics after a request of the HTTP cache, from whose answer the client reads `reads` frames.
async fn metrics_after_http(method: &str, path: &str, status: u16, reads: usize) -> String {
    let recorder = PrometheusBuilder::new().build_recorder();
    let handle = recorder.handle();
    let _installed = metrics::set_default_local_recorder(&recorder);
    let inner = service_fn(move |_: Request<()>| {
        let response = Response::builder()
            .status(status)
            .body(http_body_util::Full::new(Bytes::from("bytes")));
        std::future::ready(Ok::<_, Infallible>(response.unwrap()))
    });
    let mut service = ObservingLayer::Http.layer(inner);
    let request = Request::builder().method(method).uri(path).body(()).unwrap();
    let response = service.ready().await.unwrap().call(request).await.unwrap();
    let mut body = response.into_body();
    for _ in 0..reads {
        body.frame().await.unwrap().unwrap();
    }
    drop(body);
    handle.render()
}

#[tokio::test]
async fn counts_http_requests_by_method_and_kind_of_entry() {
    let blob = format!("/team/cas/{}", "0".repeat(64));
    let result = format!("/ac/{}", "0".repeat(64));
    for (method, path, status, service, called, code) in [
        ("GET", blob.as_str(), 200, "HttpCache", "GetBlob", "OK"),
        ("HEAD", &result, 404, "HttpCache", "HeadResult", "NOT_FOUND"),
        (
            "PUT",
            "/dav/a/b",
            507,
            "HttpCache",
            "PutValue",
            "RESOURCE_EXHAUSTED",
        ),
        ("PROPFIND", "/dav/", 207, "HttpCache", "DescribeCollection", "OK"),
        ("BREW", &blob, 405, "unknown", "unknown", "UNIMPLEMENTED"),
        ("GET", "/made/up", 400, "unknown", "unknown", "INVALID_ARGUMENT"),
    ] {
        // The length of the body is known, so no client asks what comes after its last byte.
        let metrics = metrics_after_http(method, path, status, 1).await;
        assert!(metrics.contains(&counted(service, called, code)), "{metrics}");
        assert!(metrics.contains("bitzel_requests_in_flight 0"), "{metrics}");
        assert!(!metrics.contains("made"), "{metrics}");
    }
    let metrics = metrics_after_http("GET", &blob, 200, 0).await;
    assert!(
        metrics.contains(&counted("HttpCache", "GetBlob", "CANCELLED")),
        "{metrics}"
    );
}
