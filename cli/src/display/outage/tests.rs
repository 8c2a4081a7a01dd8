use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn interrupt(outage: &mut Outage, task: &str, pause: Duration, now: Instant) {
    let reason = "Connection refused".to_owned();
    outage.interrupted(task.to_owned(), ServerCondition::Unreachable, reason, pause, now);
}

#[test]
fn counts_all_waiting_tasks_in_one_line() {
    let (mut outage, start) = (Outage::default(), Instant::now());
    interrupt(&mut outage, "zlib:do_compile", 3 * SECOND, start);
    assert_eq!(outage.line(start), None);
    interrupt(&mut outage, "png:do_compile", 4 * SECOND, start);
    let now = start + SECOND;
    let text = "server unreachable, 2 tasks waiting, retry in 2 s: Connection refused";
    assert_eq!(outage.line(now).as_deref(), Some(text));
    assert_eq!(outage.status(now).as_deref(), Some(text));
    assert_eq!(outage.line(now + SECOND), None);
    assert_eq!(outage.resumed("png:do_compile", now + SECOND), None);
    assert_eq!(
        outage.resumed("zlib:do_compile", now + SECOND).as_deref(),
        Some("server answers again after 2 s, 2 tasks go on")
    );
    assert_eq!(outage.status(now + SECOND), None);
}

#[test]
fn repeats_the_line_once_a_minute() {
    let (mut outage, start) = (Outage::default(), Instant::now());
    let mut lines = 0;
    for second in 0..150 {
        let now = start + second * SECOND;
        interrupt(&mut outage, "zlib:do_compile", SECOND, now);
        lines += usize::from(outage.line(now).is_some());
    }
    assert_eq!(lines, 3);
}

#[test]
fn keeps_quiet_about_a_short_interruption() {
    let (mut outage, start) = (Outage::default(), Instant::now());
    interrupt(&mut outage, "zlib:do_compile", SECOND / 10, start);
    assert_eq!(outage.line(start + SECOND / 10), None);
    assert_eq!(outage.resumed("zlib:do_compile", start + SECOND / 10), None);
}

#[test]
fn forgets_a_task_that_failed() {
    let (mut outage, start) = (Outage::default(), Instant::now());
    interrupt(&mut outage, "zlib:do_compile", SECOND, start);
    outage.ended("zlib:do_compile");
    assert_eq!(outage.status(start), None);
}
