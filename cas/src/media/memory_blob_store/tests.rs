use proptest::prelude::*;

use super::*;
use crate::testing::model;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn behaves_like_every_store(steps in prop::collection::vec(model::step(), 1..30)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let open = async |store: Option<MemoryBlobStore>| store.unwrap_or_default();
        runtime.block_on(model::run(steps, open));
    }
}
