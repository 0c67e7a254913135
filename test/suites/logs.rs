//! Logs: the kubelet's format, byte for byte.

use std::path::Path;

use e2e::node::LogLine;
use e2e::runner::Test;
use e2e::spec::script;
use e2e::tests;
use e2e::world::World;

pub fn tests() -> Vec<Test> {
    tests![
        Any: lines_have_a_time_a_stream_and_a_tag,
        Any: long_lines_are_split_at_16_kib,
        Any: a_last_line_without_an_end_is_partial,
        Any: empty_lines_and_odd_bytes_are_kept,
        Any: a_container_without_a_log_path_runs,
        Any: what_is_printed_last_is_there_when_the_container_has_exited,
        Wherry: the_log_file_is_readable_by_its_group_and_no_others,
    ]
}

async fn printed(world: &mut World, text: &str) -> Vec<LogLine> {
    let node = world.node().await;
    let pod = node.pod("logs").await;
    let config = script("logs", text);
    node.finish(&pod, &config).await;
    node.log(&pod, &config)
}

async fn lines_have_a_time_a_stream_and_a_tag(world: &mut World) {
    let lines = printed(world, "echo one; sleep 0.1; echo two words >&2").await;
    let short: Vec<_> =
        lines.iter().map(|line| (line.stream.as_str(), line.partial, line.text.as_str())).collect();
    assert_eq!(short, [("stdout", false, "one"), ("stderr", false, "two words")]);
    for line in &lines {
        // 2006-01-02T15:04:05.999999999Z07:00; Go leaves out zeros at the end of the fraction.
        let time = line.time.as_bytes();
        let marks = (time[4], time[7], time[10], time[13], time[16], time[19]);
        assert_eq!(marks, (b'-', b'-', b'T', b':', b':', b'.'), "{}", line.time);
        assert!(line.time.ends_with('Z') || line.time.contains('+'), "{}", line.time);
    }
    assert!(lines[0].time < lines[1].time);
}

async fn long_lines_are_split_at_16_kib(world: &mut World) {
    let lines = printed(world, "head -c 40000 /dev/zero | tr '\\0' x; echo; echo short").await;
    let short: Vec<_> = lines.iter().map(|line| (line.partial, line.text.len())).collect();
    assert_eq!(short, [(true, 16384), (true, 16384), (false, 7232), (false, 5)]);
}

async fn a_last_line_without_an_end_is_partial(world: &mut World) {
    let lines = printed(world, "echo whole; printf 'no end'").await;
    let short: Vec<_> = lines.iter().map(|line| (line.partial, line.text.as_str())).collect();
    assert_eq!(short, [(false, "whole"), (true, "no end")]);
}

async fn empty_lines_and_odd_bytes_are_kept(world: &mut World) {
    let node = world.node().await;
    let pod = node.pod("odd").await;
    let config = script("odd", "echo; printf 'a\\0b\\377c\\n'; echo; echo '  spaces  '");
    node.finish(&pod, &config).await;
    let path = Path::new(&pod.config.log_directory).join(&config.log_path);
    let bytes = std::fs::read(path).unwrap();
    let lines: Vec<&[u8]> = bytes.split(|byte| *byte == b'\n').collect();
    let texts: Vec<&[u8]> = lines.iter().map(|line| after_spaces(line, 3)).collect();
    let expected: [&[u8]; 5] = [b"", b"a\0b\xffc", b"", b"  spaces  ", b""];
    assert_eq!(texts, expected);
}

/// What follows the given number of spaces.
fn after_spaces(line: &[u8], count: usize) -> &[u8] {
    line.splitn(count + 1, |byte| *byte == b' ').nth(count).unwrap_or_default()
}

async fn a_container_without_a_log_path_runs(world: &mut World) {
    let node = world.node().await;
    let pod = node.pod("silent").await;
    let mut config = script("silent", "head -c 1000000 /dev/zero; echo; exit 3");
    config.log_path = String::new();
    let id = node.run(&pod, &config).await;
    assert_eq!(node.exit(&id).await.exit_code, 3);
}

async fn what_is_printed_last_is_there_when_the_container_has_exited(world: &mut World) {
    let lines =
        printed(world, "i=0; while [ $i -lt 5000 ]; do echo line $i; i=$((i+1)); done").await;
    assert_eq!(lines.len(), 5000);
    for (number, line) in lines.iter().enumerate() {
        assert_eq!(line.text, format!("line {number}"));
    }
}

async fn the_log_file_is_readable_by_its_group_and_no_others(world: &mut World) {
    use std::os::unix::fs::PermissionsExt;
    let node = world.node().await;
    let pod = node.pod("mode").await;
    let config = script("mode", "echo x");
    node.finish(&pod, &config).await;
    let path = Path::new(&pod.config.log_directory).join(&config.log_path);
    assert_eq!(std::fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o640);
}
