// Go's `replicate-go`, which the community uses: prints one line of JSON for each check; ../checks.ts shows them as tests.
package main

import (
	"archive/zip"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/replicate/replicate-go"
)

const (
	within  = time.Minute
	polling = 50 * time.Millisecond
)

var (
	ctx     = context.Background()
	account = os.Getenv("ACCOUNT")
	url     = os.Getenv("COGWAY_URL")
	client  = newClient(os.Getenv("REPLICATE_API_TOKEN"))
)

func newClient(token string) *replicate.Client {
	made, err := replicate.NewClient(replicate.WithToken(token), replicate.WithBaseURL(url+"/v1"))
	must(err)
	return made
}

func main() {
	for _, check := range []struct {
		name string
		run  func()
	}{
		{"account, hardware and collections", checkAccount},
		{"models, versions and search", checkModels},
		{"predictions: run, wait, poll and cancel", checkPredictions},
		{"streams of text and of files", checkStreams},
		{"files, as inputs too", checkFiles},
		{"webhooks are signed so that ValidateWebhookRequest accepts them", checkWebhooks},
		{"deployments", checkDeployments},
		{"trainings", checkTrainings},
		{"errors are problems", checkErrors},
	} {
		line, err := json.Marshal(map[string]any{"check": check.name, "error": faultOf(check.run)})
		must(err)
		fmt.Println(string(line))
	}
}

// faultOf gives what a check panics with; nil when it holds.
func faultOf(run func()) (fault any) {
	defer func() {
		if recovered := recover(); recovered != nil {
			fault = fmt.Sprint(recovered)
		}
	}()
	run()
	return nil
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

// got gives a value that must have come without an error.
func got[T any](value T, err error) T {
	must(err)
	return value
}

func equal(actual, expected any) {
	if !reflect.DeepEqual(actual, expected) {
		panic(fmt.Sprintf("%#v is not %#v", actual, expected))
	}
}

func waitFor(what string, isSo func() bool) {
	for until := time.Now().Add(within); !isSo(); time.Sleep(polling) {
		if time.Now().After(until) {
			panic(fmt.Sprintf("%s: not within %s", what, within))
		}
	}
}

// statusOf gives the status of a refusal.
func statusOf(err error) int {
	var refusal *replicate.APIError
	if !errors.As(err, &refusal) {
		panic(fmt.Sprintf("%v is no refusal", err))
	}
	return refusal.Status
}

func latest(name string) string {
	return got(client.GetModel(ctx, "cogway", name)).LatestVersion.ID
}

func untilEnded(prediction *replicate.Prediction) {
	must(client.Wait(ctx, prediction, replicate.WithPollingInterval(polling)))
}

func checkAccount() {
	current := got(client.GetCurrentAccount(ctx))
	equal([]string{current.Type, current.Username}, []string{"user", account})
	hardware := *got(client.ListHardware(ctx))
	equal(slices.ContainsFunc(hardware, func(each replicate.Hardware) bool { return each.SKU == "cpu" }), true)
	slug := os.Getenv("COLLECTION")
	equal(got(client.ListCollections(ctx)).Results[0].Slug, slug)
	equal(len(*got(client.GetCollection(ctx, slug)).Models), 2)
}

func checkModels() {
	isNoop := func(model replicate.Model) bool { return model.Owner == "cogway" && model.Name == "noop" }
	equal(slices.ContainsFunc(got(client.ListModels(ctx)).Results, isNoop), true)
	waitFor("the model in search", func() bool {
		return slices.ContainsFunc(got(client.SearchModels(ctx, "noop")).Results, isNoop)
	})
	equal(got(client.ListModelVersions(ctx, "cogway", "noop")).Results[0].ID, latest("noop"))
	equal(got(client.GetModelVersion(ctx, "cogway", "noop", latest("noop"))).ID, latest("noop"))
	made := got(client.CreateModel(ctx, account, "shelf", replicate.CreateModelOptions{Visibility: "private", Hardware: "cpu"}))
	equal([]string{made.Owner, made.Name}, []string{account, "shelf"})
	must(client.DeleteModel(ctx, account, "shelf"))
}

func checkPredictions() {
	input := replicate.PredictionInput{"text": "hi"}
	blocking := replicate.WithBlockUntilDone()
	equal(got(client.RunWithOptions(ctx, "cogway/noop", input, nil, blocking)), replicate.PredictionOutput("hi"))
	equal(got(client.Run(ctx, "cogway/noop:"+latest("noop"), input, nil)), replicate.PredictionOutput("hi"))
	output := got(client.RunWithOptions(
		ctx, "cogway/files", replicate.PredictionInput{"size": 5}, nil, blocking, replicate.WithFileOutput(),
	))
	equal(string(got(io.ReadAll(output.(*replicate.FileOutput)))), "11111")

	made := got(client.CreatePrediction(ctx, latest("noop"), input, nil, false))
	untilEnded(made)
	equal([]any{made.Status, made.Output}, []any{replicate.Succeeded, "hi"})
	equal(got(client.GetPrediction(ctx, made.ID)).Status, replicate.Succeeded)
	slow := replicate.PredictionInput{"count": 1000, "delay_ms": 100}
	running := got(client.CreatePredictionWithModel(ctx, "cogway", "tokens", slow, nil, false))
	equal(got(client.CancelPrediction(ctx, running.ID)).Status, replicate.Canceled)
	// Not Paginate: it puts the base URL before `next`, which is a whole address here as at Replicate.
	first := got(newClient(os.Getenv("PAGER_TOKEN")).ListPredictions(ctx))
	equal([]any{len(first.Results), strings.HasPrefix(*first.Next, url+"/v1/predictions?")}, []any{100, true})

	_, err := client.Run(ctx, "cogway/tokens", replicate.PredictionInput{"fail_at": 1}, nil)
	var failed *replicate.ModelError
	equal(errors.As(err, &failed), true)
	equal(failed.Prediction.Status, replicate.Failed)
}

func checkStreams() {
	events, faults := client.Stream(ctx, "cogway/tokens", replicate.PredictionInput{"count": 3, "delay_ms": 10}, nil)
	// Until the text is whole: where the connection ends right behind `done`, this client may lose that last event, or say EOF.
	for text := ""; text != "token 0\ntoken 1\ntoken 2\n"; {
		select {
		case event := <-events:
			text += event.String()
		case err := <-faults:
			if err != nil && !strings.HasSuffix(err.Error(), "EOF") {
				panic(err)
			}
		case <-time.After(within):
			panic(fmt.Sprintf("all that came is %q", text))
		}
	}
	said := replicate.PredictionInput{"text": "hi\nthere"}
	spoken := got(client.CreatePredictionWithModel(ctx, "cogway", "noop", said, nil, true))
	reader := got(client.StreamPredictionText(ctx, spoken))
	defer reader.Close()
	equal(string(got(io.ReadAll(reader))), "hi\nthere")

	prediction := got(client.CreatePredictionWithModel(
		ctx, "cogway", "file-iterator", replicate.PredictionInput{"count": 2}, nil, true,
	))
	files := got(client.StreamPredictionFiles(prediction))
	defer files.Close()
	read := []string{}
	for file, err := files.NextFile(ctx); !errors.Is(err, io.EOF); file, err = files.NextFile(ctx) {
		must(err)
		read = append(read, string(got(io.ReadAll(got(file.Body(ctx))))))
	}
	equal(read, []string{"frame 0", "frame 1"})
}

func checkFiles() {
	options := &replicate.CreateFileOptions{Filename: "a.txt", ContentType: "text/plain", Metadata: map[string]string{"of": "me"}}
	made := got(client.CreateFileFromBytes(ctx, []byte("abc"), options))
	equal([]any{made.Name, made.ContentType, made.Size, made.Metadata["of"]}, []any{"a.txt", "text/plain", 3, "me"})
	equal(got(client.GetFile(ctx, made.ID)).Etag, made.Etag)
	isMade := func(file replicate.File) bool { return file.ID == made.ID }
	equal(slices.ContainsFunc(got(client.ListFiles(ctx)).Results, isMade), true)
	input := replicate.PredictionInput{"file": made}
	output := got(client.RunWithOptions(ctx, "cogway/inputs", input, nil, replicate.WithBlockUntilDone()))
	equal(output.(map[string]any)["files"], []any{map[string]any{"suffix": ".txt", "size": 3.0}})
	must(client.DeleteFile(ctx, made.ID))
	_, err := client.GetFile(ctx, made.ID)
	equal(statusOf(err), 404)
}

func checkWebhooks() {
	secret := got(client.GetDefaultWebhookSecret(ctx))
	valid := make(chan bool, 10)
	receiver := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, request *http.Request) {
		isValid, err := replicate.ValidateWebhookRequest(request, *secret)
		valid <- isValid && err == nil
	}))
	defer receiver.Close()
	webhook := &replicate.Webhook{URL: receiver.URL, Events: []replicate.WebhookEventType{replicate.WebhookEventCompleted}}
	got(client.CreatePredictionWithModel(ctx, "cogway", "noop", replicate.PredictionInput{}, webhook, false))
	select {
	case isValid := <-valid:
		equal(isValid, true)
	case <-time.After(within):
		panic("no webhook came")
	}
}

func checkDeployments() {
	made := got(client.CreateDeployment(ctx, replicate.CreateDeploymentOptions{
		Name: "mine", Model: "cogway/noop", Version: latest("noop"), Hardware: "cpu", MinInstances: 0, MaxInstances: 1,
	}))
	equal([]any{made.Owner, made.Name, made.CurrentRelease.Number}, []any{account, "mine", 1})
	two := 2
	changed := got(client.UpdateDeployment(ctx, account, "mine", replicate.UpdateDeploymentOptions{MaxInstances: &two}))
	equal([]int{changed.CurrentRelease.Number, changed.CurrentRelease.Configuration.MaxInstances}, []int{2, 2})
	equal(got(client.GetDeployment(ctx, account, "mine")).CurrentRelease.Number, 2)
	equal(len(got(client.ListDeployments(ctx)).Results), 1)
	prediction := got(client.CreatePredictionWithDeployment(
		ctx, account, "mine", replicate.PredictionInput{"text": "deployed"}, nil, false,
	))
	untilEnded(prediction)
	equal(prediction.Output, replicate.PredictionOutput("deployed"))
	// It was just used.
	equal(statusOf(client.DeleteDeployment(ctx, account, "mine")), 409)
}

func checkTrainings() {
	archive := &bytes.Buffer{}
	writer := zip.NewWriter(archive)
	got(got(writer.Create("a.txt")).Write([]byte("roses")))
	must(writer.Close())
	data := got(client.CreateFileFromBuffer(ctx, archive, &replicate.CreateFileOptions{Filename: "flowers.zip"}))
	got(client.CreateModel(ctx, account, "garden", replicate.CreateModelOptions{Visibility: "private", Hardware: "cpu"}))
	input := replicate.TrainingInput{"train_data": data.URLs["get"]}
	made := got(client.CreateTraining(ctx, "cogway", "trainer", latest("trainer"), account+"/garden", input, nil))
	waitFor("the end of the training", func() bool {
		return got(client.GetTraining(ctx, made.ID)).Status.Terminated()
	})
	ended := got(client.CancelTraining(ctx, made.ID))
	equal(ended.Status, replicate.Succeeded)
	equal(got(client.ListTrainings(ctx)).Results[0].ID, made.ID)
	version := ended.Output.(map[string]any)["version"].(string)
	hi := replicate.PredictionInput{"text": "hi"}
	equal(got(client.Run(ctx, version, hi, nil)), replicate.PredictionOutput("hi from roses"))
	must(client.DeleteModelVersion(ctx, account, "garden", strings.Split(version, ":")[1]))
	must(client.DeleteModel(ctx, account, "garden"))
}

func checkErrors() {
	_, err := newClient("none").GetCurrentAccount(ctx)
	equal(statusOf(err), 401)
	_, err = client.GetModel(ctx, "cogway", "none")
	equal(statusOf(err), 404)
	wrong := replicate.PredictionInput{"count": -1, "stamp": 3}
	_, err = client.CreatePredictionWithModel(ctx, "cogway", "tokens", wrong, nil, false)
	equal(statusOf(err), 422)
	for _, field := range []string{"input.count", "input.stamp"} {
		equal(strings.Contains(err.Error(), field), true)
	}
}
