package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// newZap returns a zap logger that logs to log what has at least a level. Where its user
// would end the process or panic, it calls fatal instead, which must not return; what
// fatal gets is not logged.
func newZap(log *slog.Logger, level zapcore.LevelEnabler, fatal func(error)) *zap.Logger {
	return zap.New(zapCore{level, log}, zap.WithFatalHook(fatalHook(fatal)), zap.WithPanicHook(fatalHook(fatal)))
}

// zapCore is a zapcore.Core that writes to slog.
type zapCore struct {
	zapcore.LevelEnabler
	log *slog.Logger
}

func (c zapCore) With(fields []zapcore.Field) zapcore.Core {
	return zapCore{c.LevelEnabler, c.log.With(attrs(fields)...)}
}

func (c zapCore) Check(e zapcore.Entry, checked *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(e.Level) && e.Level <= zapcore.ErrorLevel {
		return checked.AddCore(e, c)
	}
	return checked
}

func (c zapCore) Write(e zapcore.Entry, fields []zapcore.Field) error {
	level := slog.LevelWarn
	if e.Level > zapcore.WarnLevel {
		level = slog.LevelError
	}
	c.log.Log(context.Background(), level, "etcd: "+e.Message, attrs(fields)...)
	return nil
}

func (c zapCore) Sync() error { return nil }

func attrs(fields []zapcore.Field) []any {
	var attrs []any
	for _, f := range fields {
		m := zapcore.NewMapObjectEncoder()
		f.AddTo(m)
		key := f.Key
		if f.Type == zapcore.ErrorType {
			key = "err"
		}
		attrs = append(attrs, slog.Any(key, m.Fields[f.Key]))
	}
	return attrs
}

// fatalHook hands what zap would end the process or panic for to a function.
type fatalHook func(error)

func (f fatalHook) OnWrite(e *zapcore.CheckedEntry, fields []zapcore.Field) {
	err := errors.New(e.Message)
	for _, field := range fields {
		if cause, ok := field.Interface.(error); ok && field.Type == zapcore.ErrorType {
			err = fmt.Errorf("%s: %w", e.Message, cause)
		}
	}
	f(err)
}
