// A transaction with the RocketMQ 5 client for Go:
// go get github.com/apache/rocketmq-clients/golang/v5@v5.1.4; go run order.go [HOST:PORT]
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"sync"
	"time"

	rmq "github.com/apache/rocketmq-clients/golang/v5"
	"github.com/apache/rocketmq-clients/golang/v5/credentials"
)

var orders sync.Map // stands for the database of the shop

// HalfMQ asks what became of a half message that nobody decided.
func check(message *rmq.MessageView) rmq.TransactionResolution {
	if _, placed := orders.Load(string(message.GetBody())); placed {
		return rmq.COMMIT
	}
	return rmq.ROLLBACK
}

func must[T any](value T, err error) T {
	if err != nil {
		log.Fatal(err)
	}
	return value
}

func main() {
	endpoint := "127.0.0.1:8081"
	if len(os.Args) > 1 {
		endpoint = os.Args[1]
	}
	keys := &credentials.SessionCredentials{AccessKey: "unused", AccessSecret: "unused"}
	producer := must(rmq.NewProducer(&rmq.Config{Endpoint: endpoint, Credentials: keys},
		rmq.WithTopics("go-orders"), rmq.WithTransactionChecker(&rmq.TransactionChecker{Check: check})))
	must(0, producer.Start())

	transaction := producer.BeginTransaction()
	half := &rmq.Message{Topic: "go-orders", Body: []byte("order 42")}
	half.SetTag("placed")
	must(producer.SendWithTransaction(context.Background(), half, transaction)) // durable, and nobody sees it
	orders.Store("order 42", true)                                              // the local transaction
	must(0, transaction.Commit())                                               // now everybody does

	placed := map[string]*rmq.FilterExpression{"go-orders": rmq.NewFilterExpression("placed")}
	consumer := must(rmq.NewSimpleConsumer(&rmq.Config{Endpoint: endpoint, ConsumerGroup: "go-cart", Credentials: keys},
		rmq.WithSimpleAwaitDuration(10*time.Second), rmq.WithSimpleSubscriptionExpressions(placed)))
	must(0, consumer.Start())
	for _, message := range must(consumer.Receive(context.Background(), 16, 15*time.Second)) {
		fmt.Println("received", string(message.GetBody()))
		must(0, consumer.Ack(context.Background(), message))
	}
	must(0, consumer.GracefulStop())
	must(0, producer.GracefulStop())
}
