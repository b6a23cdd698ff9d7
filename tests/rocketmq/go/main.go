// A driver around the Go library; see ../README.md.
package main

import (
	"bufio"
	"context"
	"crypto/md5"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"sort"
	"strconv"
	"strings"
	"sync"
	"time"

	rmq "github.com/apache/rocketmq-clients/golang/v5"
	"github.com/apache/rocketmq-clients/golang/v5/credentials"
)

type command struct {
	ID         int               `json:"id"`
	Op         string            `json:"op"`
	Name       string            `json:"name"`
	Endpoint   string            `json:"endpoint"`
	Topics     []string          `json:"topics"`
	Value      string            `json:"value"`
	Producer   string            `json:"producer"`
	Consumer   string            `json:"consumer"`
	Topic      string            `json:"topic"`
	Group      string            `json:"group"`
	Body       string            `json:"body"`
	Size       int               `json:"size"`
	Tag        *string           `json:"tag"`
	Keys       []string          `json:"keys"`
	Properties map[string]string `json:"properties"`
	DelayMs    int64             `json:"delay_ms"`
	Tx         string            `json:"tx"`
	Resolution string            `json:"resolution"`
	Handle     string            `json:"handle"`
	Filter     *string           `json:"filter"`
	SQL        bool              `json:"sql"`
	AwaitS     int64             `json:"await_s"`
	Max        int32             `json:"max"`
	InvisibleS int64             `json:"invisible_s"`
	Token      string            `json:"token"`
	Seconds    int64             `json:"seconds"`
	Fail       int               `json:"fail"`
	HoldS      int64             `json:"hold_s"`
	Access     string            `json:"access"`
	Secret     string            `json:"secret"`
}

type object = map[string]any

type delivery struct {
	consumer rmq.SimpleConsumer
	view     *rmq.MessageView
}

type client interface{ GracefulStop() error }

var (
	out          sync.Mutex
	state        sync.Mutex
	answer       = "COMMIT"
	numbers      int
	clients      = map[string]client{}
	producers    = map[string]rmq.Producer{}
	consumers    = map[string]rmq.SimpleConsumer{}
	transactions = map[string]rmq.Transaction{}
	deliveries   = map[string]delivery{}
)

func say(line object) {
	text, err := json.Marshal(line)
	if err != nil {
		panic(err)
	}
	out.Lock()
	defer out.Unlock()
	fmt.Println(string(text))
}

func fresh() string {
	numbers++
	return strconv.Itoa(numbers)
}

func shown(view *rmq.MessageView) object {
	body := view.GetBody()
	sum := md5.Sum(body)
	keys := append([]string{}, view.GetKeys()...)
	sort.Strings(keys)
	line := object{
		"size":       len(body),
		"md5":        hex.EncodeToString(sum[:]),
		"tag":        view.GetTag(),
		"keys":       keys,
		"properties": view.GetProperties(),
		"message_id": view.GetMessageId(),
		"attempt":    view.GetDeliveryAttempt(),
		"body":       nil,
	}
	if len(body) < 1000 {
		line["body"] = string(body)
	}
	return line
}

func config(c command) *rmq.Config {
	// The library wants some credentials, and sends them.
	access, secret := c.Access, c.Secret
	if access == "" {
		access, secret = "nobody", "nothing"
	}
	return &rmq.Config{
		Endpoint:      c.Endpoint,
		ConsumerGroup: c.Group,
		Credentials:   &credentials.SessionCredentials{AccessKey: access, AccessSecret: secret},
	}
}

func filters(c command) map[string]*rmq.FilterExpression {
	expression := "*"
	if c.Filter != nil {
		expression = *c.Filter
	}
	kind := rmq.TAG
	if c.SQL {
		kind = rmq.SQL92
	}
	return map[string]*rmq.FilterExpression{c.Topic: rmq.NewFilterExpressionWithType(expression, kind)}
}

func message(c command) *rmq.Message {
	body := []byte(c.Body)
	if c.Size > 0 {
		body = []byte(strings.Repeat("x", c.Size))
	}
	made := &rmq.Message{Topic: c.Topic, Body: body, Tag: c.Tag}
	if len(c.Keys) > 0 {
		made.SetKeys(c.Keys...)
	}
	for name, value := range c.Properties {
		made.AddProperty(name, value)
	}
	if c.Group != "" {
		made.SetMessageGroup(c.Group)
	}
	if c.DelayMs > 0 {
		made.SetDelayTimestamp(time.Now().Add(time.Duration(c.DelayMs) * time.Millisecond))
	}
	return made
}

func check(view *rmq.MessageView) rmq.TransactionResolution {
	state.Lock()
	says := answer
	state.Unlock()
	event := shown(view)
	event["event"], event["answer"] = "check", says
	say(event)
	switch says {
	case "COMMIT":
		return rmq.COMMIT
	case "ROLLBACK":
		return rmq.ROLLBACK
	default:
		return rmq.UNKNOWN
	}
}

func startProducer(c command) (object, error) {
	checker := rmq.WithTransactionChecker(&rmq.TransactionChecker{Check: check})
	producer, err := rmq.NewProducer(config(c), rmq.WithTopics(c.Topics...), checker)
	if err != nil {
		return nil, err
	}
	if err := producer.Start(); err != nil {
		return nil, err
	}
	producers[c.Name], clients[c.Name] = producer, producer
	return object{}, nil
}

func send(c command) (object, error) {
	receipts, err := producers[c.Producer].Send(context.Background(), message(c))
	if err != nil {
		return nil, err
	}
	return object{"message_id": receipts[0].MessageID, "recall_handle": receipts[0].RecallHandle}, nil
}

func half(c command) (object, error) {
	producer := producers[c.Producer]
	transaction := producer.BeginTransaction()
	receipts, err := producer.SendWithTransaction(context.Background(), message(c), transaction)
	if err != nil {
		return nil, err
	}
	token := fresh()
	transactions[token] = transaction
	return object{"tx": token, "message_id": receipts[0].MessageID, "transaction_id": receipts[0].TransactionId}, nil
}

func end(c command) (object, error) {
	if c.Resolution == "COMMIT" {
		return object{}, transactions[c.Tx].Commit()
	}
	return object{}, transactions[c.Tx].RollBack()
}

func startSimple(c command) (object, error) {
	await := 5 * time.Second
	if c.AwaitS > 0 {
		await = time.Duration(c.AwaitS) * time.Second
	}
	consumer, err := rmq.NewSimpleConsumer(config(c),
		rmq.WithSimpleAwaitDuration(await), rmq.WithSimpleSubscriptionExpressions(filters(c)))
	if err != nil {
		return nil, err
	}
	if err := consumer.Start(); err != nil {
		return nil, err
	}
	consumers[c.Name], clients[c.Name] = consumer, consumer
	return object{}, nil
}

func receive(c command) (object, error) {
	consumer := consumers[c.Consumer]
	views, err := consumer.Receive(context.Background(), c.Max, time.Duration(c.InvisibleS)*time.Second)
	if status, ok := err.(*rmq.ErrRpcStatus); ok && status.Code == 40401 {
		// The library calls it an error that there is no message.
		views, err = nil, nil
	}
	if err != nil {
		return nil, err
	}
	messages := []object{}
	for _, view := range views {
		token := fresh()
		deliveries[token] = delivery{consumer, view}
		line := shown(view)
		line["token"] = token
		messages = append(messages, line)
	}
	return object{"messages": messages}, nil
}

func startPush(c command) (object, error) {
	failed := map[string]int{}
	var counting sync.Mutex
	listener := rmq.FuncMessageListener{Consume: func(view *rmq.MessageView) rmq.ConsumerResult {
		event := shown(view)
		event["event"], event["consumer"] = "message", c.Name
		say(event)
		time.Sleep(time.Duration(c.HoldS) * time.Second)
		counting.Lock()
		defer counting.Unlock()
		failed[string(view.GetBody())]++
		if failed[string(view.GetBody())] <= c.Fail {
			return rmq.FAILURE
		}
		return rmq.SUCCESS
	}}
	consumer, err := rmq.NewPushConsumer(config(c),
		rmq.WithPushAwaitDuration(5*time.Second),
		rmq.WithPushSubscriptionExpressions(filters(c)),
		rmq.WithPushMessageListener(&listener))
	if err != nil {
		return nil, err
	}
	if err := consumer.Start(); err != nil {
		return nil, err
	}
	clients[c.Name] = consumer
	return object{}, nil
}

func run(c command) (object, error) {
	switch c.Op {
	case "producer":
		return startProducer(c)
	case "answer":
		state.Lock()
		defer state.Unlock()
		answer = c.Value
		return object{}, nil
	case "send":
		return send(c)
	case "half":
		return half(c)
	case "end":
		return end(c)
	case "recall":
		_, err := producers[c.Producer].Recall(context.Background(), c.Topic, c.Handle)
		return object{}, err
	case "simple":
		return startSimple(c)
	case "receive":
		return receive(c)
	case "ack":
		found := deliveries[c.Token]
		return object{}, found.consumer.Ack(context.Background(), found.view)
	case "invisible":
		found := deliveries[c.Token]
		return object{}, found.consumer.ChangeInvisibleDuration(found.view, time.Duration(c.Seconds)*time.Second)
	case "push":
		return startPush(c)
	case "close":
		defer delete(clients, c.Name)
		return object{}, clients[c.Name].GracefulStop()
	default:
		return nil, fmt.Errorf("no such command: %s", c.Op)
	}
}

func main() {
	rmq.ResetLogger()
	lines := bufio.NewReader(os.Stdin)
	for {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			return
		}
		var c command
		if err := json.Unmarshal(line, &c); err != nil {
			panic(err)
		}
		done, err := run(c)
		if err != nil {
			done = object{"error": object{"type": fmt.Sprintf("%T", err), "text": err.Error()}}
		}
		done["id"] = c.ID
		say(done)
	}
}
