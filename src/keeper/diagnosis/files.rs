//! What the file of a program says of the machine that it was built for.

use super::Fault;
use crate::exec::OWN_IMAGE;
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// e_ident, e_type and e_machine, elf(5).
type Head = [u8; 20];

/// A program for another machine: execve(2) refuses it, and then a shell takes it for a script and
/// says something that leads nowhere.
pub(super) fn foreign(command: &[String], directory: &Path) -> Option<Fault> {
    let program = command.first()?;
    let theirs = head(&directory.join(program))?;
    let ours = head(Path::new(OWN_IMAGE))?;
    let is_same = theirs[4..6] == ours[4..6] && theirs[18..20] == ours[18..20];
    (!is_same).then(|| Fault::Foreign {
        program: program.clone(),
        built_for: machine(&theirs),
    })
}

fn head(path: &Path) -> Option<Head> {
    let mut head: Head = [0; 20];
    File::open(path).ok()?.read_exact(&mut head).ok()?;
    head.starts_with(b"\x7fELF").then_some(head)
}

/// The names of EM_* in elf.h, as people know them.
fn machine(head: &Head) -> String {
    let number = if head[5] == 2 {
        u16::from_be_bytes([head[18], head[19]])
    } else {
        u16::from_le_bytes([head[18], head[19]])
    };
    match number {
        3 => "x86 (32 bits)".into(),
        8 => "mips".into(),
        21 => "powerpc64".into(),
        22 => "s390x".into(),
        40 => "arm (32 bits)".into(),
        62 => "x86_64".into(),
        183 => "aarch64".into(),
        243 => "riscv64".into(),
        other => format!("another machine (ELF number {other})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_for_another_machine_is_told_from_ours_and_from_a_script() {
        let directory = std::env::temp_dir().join(format!("gl-foreign-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let mut head = head(Path::new(OWN_IMAGE)).unwrap();
        let other: u8 = if std::env::consts::ARCH == "aarch64" {
            62
        } else {
            183
        };
        head[18] = other;
        std::fs::write(directory.join("other"), head).unwrap();
        std::fs::write(directory.join("script"), "#!/bin/sh\nexec something\n").unwrap();
        let ask = |program: &str| foreign(&[program.to_owned()], &directory);
        let found = ask("other").unwrap();
        let name = machine(&head);
        assert!(
            found
                .finding()
                .starts_with(&format!("other is built for {name}, "))
        );
        assert_eq!(ask("script"), None);
        assert_eq!(ask("nothing"), None);
        assert_eq!(foreign(&[OWN_IMAGE.into()], &directory), None);
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
