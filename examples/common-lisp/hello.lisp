;;;; Hunchentoot behind gapless: one program, with the Lisp in it that can be talked to while it runs.

(require :asdf)
;; gapless is behind a TLS proxy; so the program needs no OpenSSL where it runs.
(push :hunchentoot-no-ssl *features*)
(let ((*compile-verbose* nil) (*compile-print* nil))
  (handler-bind ((warning #'muffle-warning))
    (asdf:load-system :hunchentoot)))
(require :sb-bsd-sockets)
(require :sb-posix)

(defpackage :hello
  (:use :cl)
  (:export #:main))
(in-package :hello)

(defparameter *version* "v1")

(defun greeting ()
  "What the console redefines."
  "hello from common lisp")

(defun answer ()
  (setf (hunchentoot:content-type*) "text/plain")
  (format nil "~a, ~a~%" (greeting) *version*))

(hunchentoot:define-easy-handler (index :uri "/") ()
  (answer))

(hunchentoot:define-easy-handler (slow :uri "/slow") ((ms :parameter-type 'integer :init-form 0))
  (sleep (/ ms 1000))
  (answer))

;;; The REPL, on a unix socket in a directory that only the user of the app can enter.

(defun environment (name &optional default)
  (or (sb-posix:getenv name) default))

(defun repl-socket ()
  "Of this process and of no other: the old and the new version run beside each other for a while."
  (format nil "~a/repl-~a-~a" (environment "RUNTIME_DIRECTORY" "/tmp")
          (environment "GAPLESS_GENERATION" "0") (environment "GAPLESS_WORKER" "0")))

(defun evaluate (form)
  (handler-case (format t "~{~s~^~%~}" (multiple-value-list (eval form)))
    (error (it) (format t "~a: ~a" (type-of it) it))))

(defun repl (stream)
  "Reads, evaluates and prints until the other side has enough."
  (let ((*package* (find-package :hello))
        (*standard-input* stream) (*standard-output* stream) (*error-output* stream)
        (*query-io* stream) (*terminal-io* stream))
    (loop
      (format stream "~&~a> " (string-downcase (package-name *package*)))
      (finish-output stream)
      (let ((form (read stream nil stream)))
        (when (eq form stream) (return))
        (evaluate form)))))

(defun serve-one-repl (connection)
  (unwind-protect
       (let ((stream (sb-bsd-sockets:socket-make-stream
                      connection :input t :output t :buffering :full :external-format :utf-8)))
         (handler-case (repl stream)
           (error () nil))                  ; it has gone
         (close stream :abort t))
    (sb-bsd-sockets:socket-close connection :abort t)))

(defun start-repl (path)
  (when (probe-file path) (delete-file path))         ; of one that was killed
  (let ((socket (make-instance 'sb-bsd-sockets:local-socket :type :stream)))
    (sb-bsd-sockets:socket-bind socket path)
    (sb-posix:chmod path #o600)
    (sb-bsd-sockets:socket-listen socket 8)
    (sb-thread:make-thread
     (lambda ()
       (loop
         (let ((connection (sb-bsd-sockets:socket-accept socket)))
           (sb-thread:make-thread #'serve-one-repl :arguments (list connection)))))
     :name "console")))

(defun copy (from to)
  (loop for line = (read-char from nil)
        while line
        do (write-char line to)
           (unless (listen from) (finish-output to))))

(defun console ()
  "The other side of it: ./hello console"
  (let ((socket (make-instance 'sb-bsd-sockets:local-socket :type :stream)))
    (sb-bsd-sockets:socket-connect socket (repl-socket))
    (let ((stream (sb-bsd-sockets:socket-make-stream
                   socket :input t :output t :buffering :full :external-format :utf-8)))
      (sb-thread:make-thread (lambda ()
                               (copy *standard-input* stream)
                               (sb-bsd-sockets:socket-shutdown socket :direction :output)))
      (copy stream *standard-output*))))

;;; The program.

(defvar *end* (sb-thread:make-semaphore))

(defun serve ()
  (let ((acceptor (make-instance
                   'hunchentoot:easy-acceptor
                   :address "127.0.0.1"
                   :port (parse-integer (environment "PORT" "8888"))
                   :access-log-destination nil        ; gapless has one
                   :taskmaster (make-instance 'hunchentoot:one-thread-per-connection-taskmaster
                                              :max-thread-count 1000 :max-accept-count 2000))))
    (sb-sys:enable-interrupt sb-unix:sigterm
                             (lambda (&rest _)
                               (declare (ignore _))
                               (sb-thread:signal-semaphore *end*)))
    (start-repl (repl-socket))
    (hunchentoot:start acceptor)
    (sb-thread:wait-on-semaphore *end*)
    (hunchentoot:stop acceptor :soft t)))             ; finishes the requests in flight

(defun main ()
  (handler-case
      (if (equal (second sb-ext:*posix-argv*) "console") (console) (serve))
    (error (it)
      (format *error-output* "~a~%" it)
      (sb-ext:exit :code 1 :abort t)))
  (sb-ext:exit :code 0 :abort t))
