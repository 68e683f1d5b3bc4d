;;;; make: one program of hello.lisp and the Lisp in it.

(declaim (sb-ext:muffle-conditions sb-ext:compiler-note))
(load "hello.lisp")
(ensure-directories-exist "release/")
(sb-ext:save-lisp-and-die "release/hello" :executable t :toplevel (read-from-string "hello:main")
                                          :save-runtime-options t)
