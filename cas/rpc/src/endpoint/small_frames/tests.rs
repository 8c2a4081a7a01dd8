use std::convert::Infallible;

use futures::executor::block_on;
use futures::stream;
use http::HeaderMap;
use http_body_util::{BodyExt, StreamBody};

use super::*;

#[test]
fn cuts_small_pieces_and_nothing_else() {
    let of = |sizes: &[usize]| {
        let data = sizes.iter().map(|size| Frame::data(Bytes::from(vec![7; *size])));
        let frames: Vec<_> = data
            .chain([Frame::trailers(HeaderMap::new())])
            .map(Ok::<_, Infallible>)
            .collect();
        let mut body =
            Box::pin(small_frames(Response::new(StreamBody::new(stream::iter(frames)))).into_body());
        let mut sizes = vec![];
        while let Some(Ok(frame)) = block_on(body.frame()) {
            sizes.push(frame.data_ref().map(Bytes::len));
        }
        assert!(body.is_end_stream() || sizes.last() == Some(&None));
        sizes
    };
    assert_eq!(of(&[0, 255]), [Some(0), Some(255), None]);
    assert_eq!(of(&[256, 1]), [Some(255), Some(1), Some(1), None]);
    assert_eq!(of(&[1020]), [Some(255), Some(255), Some(255), Some(255), None]);
    assert_eq!(of(&[1021, 1 << 20]), [Some(1021), Some(1 << 20), None]);
}

#[test]
fn counts_the_rest_of_a_cut_piece() {
    let body = http_body_util::Full::new(Bytes::from(vec![7; 300]));
    let mut body = small_frames(Response::new(body)).into_body();
    assert_eq!(body.size_hint().exact(), Some(300));
    block_on(body.frame()).unwrap().unwrap();
    assert_eq!(
        (body.size_hint().exact(), body.is_end_stream()),
        (Some(45), false)
    );
    block_on(body.frame()).unwrap().unwrap();
    assert_eq!((body.size_hint().exact(), body.is_end_stream()), (Some(0), true));
}
