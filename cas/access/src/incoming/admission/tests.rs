use std::net::Ipv4Addr;

use super::*;

fn address(number: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, number))
}

fn limits() -> Limits {
    Limits {
        connections: 5,
        connections_per_address: 2,
        unauthenticated_connections: 3,
        ..Limits::default()
    }
}

#[tokio::test]
async fn f6_an_address_has_a_limit_of_its_own() {
    let mut admission = Admission::new(&limits());
    let places = [admission.admit(address(1)), admission.admit(address(1))];
    assert_eq!(admission.admit(address(1)).map(drop), Err(Full::Address));
    assert!(admission.admit(address(2)).is_ok());
    drop(places);
    assert!(admission.admit(address(1)).is_ok());
    assert!(
        admission.by_address.lock().is_empty(),
        "addresses without connections are forgotten"
    );
}

#[tokio::test]
async fn f6_addresses_of_one_ipv6_network_count_as_one() {
    let mut admission = Admission::new(&limits());
    let _places = ["2001:db8::1", "2001:db8::2"].map(|text| admission.admit(text.parse().unwrap()).unwrap());
    let third = admission.admit("2001:db8::3".parse().unwrap());
    assert_eq!(third.map(drop), Err(Full::Address));
    assert!(admission.admit("2001:db8:0:1::1".parse().unwrap()).is_ok());
}

#[tokio::test]
async fn f6_a_newcomer_takes_the_place_of_the_oldest() {
    let mut admission = Admission::new(&limits());
    let open: Vec<_> = (1..=4)
        .map(|number| admission.admit(address(number)).unwrap())
        .collect();
    assert!(open[0].is_closing());
    assert!(!open[1].is_closing());
}

#[tokio::test]
async fn f6_the_authenticated_keep_their_places() {
    let mut admission = Admission::new(&limits());
    let authenticated = [1, 2].map(|number| admission.admit(address(number)).unwrap());
    for state in &authenticated {
        state.permit(true);
    }
    let newcomers: Vec<_> = (3..20)
        .map(|number| admission.admit(address(number)).unwrap())
        .collect();
    assert!(authenticated.iter().all(|state| !state.is_closing()));
    assert!(newcomers[..14].iter().all(|state| state.is_closing()));
    for state in &newcomers[14..] {
        state.permit(true);
    }
    assert_eq!(admission.admit(address(20)).map(drop), Err(Full::Server));
}
